"""The base of all evaluators, and how one is created by name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mbv2kit.errors import UserError, nearest
from mbv2kit.evaluation.scores import Scores
from mbv2kit.registry import Registry
from mbv2kit.structures import Sample, Task


class Evaluator(ABC):
    """Compares predictions with the ground truth, image by image.

    The constructor takes the names of the data set's classes in the order of their ids, then its options.

    Attributes:
        task: Task whose predictions it compares.
        images: Number of images so far.
    """

    task: ClassVar[Task]
    images: int

    @abstractmethod
    def update(self, prediction: Any, ground_truth: Sample) -> None:
        """Adds one image; the prediction has the type of the task, in pixels of the image."""

    @abstractmethod
    def compute(self) -> Scores:
        """Returns the metrics of all images so far."""

    @abstractmethod
    def save_plots(self, directory: Path) -> list[Path]:
        """Draws the plots into ``directory`` and returns the files."""


EVALUATORS: Registry[Evaluator] = Registry("evaluator", "mbv2kit.evaluation.evaluators")

_USUAL: Mapping[str, str] = {
    "classification": "accuracy",
    "detection": "average_precision",
    "segmentation": "mean_iou",
}


def create_evaluator(task: str, class_names: Sequence[str], config: Mapping[str, Any] | None = None) -> Evaluator:
    """Returns a new evaluator.

    Args:
        task: Task of the predictions.
        class_names: The data set's classes, in the order of their ids.
        config: ``name`` and options of the evaluator; None for the usual one of the task.

    Raises:
        UserError: The task, the name or an option is unknown or missing, or the evaluator is for another task.
    """
    if task not in _USUAL:
        raise UserError(f"There is no task '{task}' to evaluate.{nearest(task, _USUAL)}")
    options = dict(config or {"name": _USUAL[task]})
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"evaluator.name must be one of {', '.join(EVALUATORS.names())}, got {name}.")
    if (other := EVALUATORS.get_class(name).task) != task:
        raise UserError(f"evaluator '{name}' measures {other}, but the task is {task}.")
    return EVALUATORS.create(name, class_names, **options)
