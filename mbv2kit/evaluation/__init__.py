"""How good a model is: one evaluator per task, fed image by image, and what it makes of them.

An evaluator sees predictions in the pixels of the image and the untouched sample, so that its figures do not
depend on the model's input size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from mbv2kit.errors import UserError, nearest
from mbv2kit.evaluation.accuracy import Accuracy
from mbv2kit.evaluation.average_precision import AveragePrecision
from mbv2kit.evaluation.mean_iou import MeanIoU
from mbv2kit.evaluation.scores import Scores, model_in_brief, per_class_table, print_scores, write_metrics
from mbv2kit.structures import Sample

__all__ = [
    "Accuracy",
    "AveragePrecision",
    "Evaluator",
    "MeanIoU",
    "Scores",
    "create_evaluator",
    "model_in_brief",
    "per_class_table",
    "print_scores",
    "write_metrics",
]


class Evaluator(Protocol):
    """What the evaluators of all tasks have in common.

    Attributes:
        images: Number of images seen.
    """

    images: int

    def update(self, prediction: Any, ground_truth: Sample) -> None:
        """Adds one image; the prediction is of the task's own type, in the pixels of the image."""

    def compute(self) -> Scores:
        """Returns the figures of all images seen."""

    def save_plots(self, directory: Path) -> list[Path]:
        """Draws the evaluation's diagrams into ``directory`` and returns the files."""


_EVALUATORS: dict[str, type[Accuracy] | type[AveragePrecision] | type[MeanIoU]] = {
    "classification": Accuracy,
    "detection": AveragePrecision,
    "segmentation": MeanIoU,
}


def create_evaluator(task: str, class_names: Sequence[str]) -> Evaluator:
    """Returns a fresh evaluator of ``task``; raises :class:`UserError` for a task that there is not."""
    if task not in _EVALUATORS:
        raise UserError(f"There is no task '{task}' to evaluate.{nearest(task, _EVALUATORS)}")
    return _EVALUATORS[task](class_names)
