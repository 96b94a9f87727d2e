"""Detection: COCO's average precision and recall, equal to those of pycocotools."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from mbv2kit.evaluation.classes import (
    check_ground_truth,
    check_prediction,
    mean_of_known,
    note_on_missing,
    unique_names,
)
from mbv2kit.evaluation.coco_protocol import MAX_DETECTIONS, CocoProtocol, xywh
from mbv2kit.evaluation.evaluators.base import EVALUATORS, Evaluator
from mbv2kit.evaluation.scores import Scores
from mbv2kit.structures import Annotated, Detections, Sample

_SIZES = {"s": "small", "m": "medium", "l": "large"}


@EVALUATORS.register("average_precision")
class AveragePrecision(Evaluator):
    """Collects detections and true boxes, and measures them by COCO's protocol.

    An image counts with its hundred best detections of each class. Detections in a crowd box are neither right nor
    wrong. The size of an object (small, medium, large) is the ``area`` that a COCO file gives it, else the area of its
    box. A class without an object has no AP (NaN) and is left out of the means.

    Args:
        class_names: The data set's classes, in the order of their ids.
    """

    task = "detection"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = unique_names(class_names)
        self.images = 0
        self._protocol = CocoProtocol(len(class_names))

    def update(self, prediction: Detections, ground_truth: Sample) -> None:
        """Adds one image; prediction and ground truth may have no boxes.

        Args:
            prediction: Boxes in the pixels of the image.
            ground_truth: The sample with ``annotated``, or with its ``boxes``, ``labels`` and ``crowd``.

        Raises:
            UserError: A class id is not in the data set.
        """
        annotated = ground_truth.annotated or self._annotated(ground_truth)
        check_ground_truth(annotated.class_ids, len(self.class_names), ground_truth.image_id)
        check_prediction(prediction.class_ids, len(self.class_names), ground_truth.image_id)
        self.images += 1
        self._protocol.update(prediction, annotated)

    def compute(self) -> Scores:
        """Returns the twelve metrics of COCO, and per class ``AP``, ``AP50`` and the number of true ``objects``.

        ``AP`` is the mean over IoU 0.50..0.95 in steps of 0.05; ``s``, ``m`` and ``l`` are objects of up to 32², up to
        96² and more pixels; crowds do not count as objects. ``AR1``, ``AR10`` and ``AR100`` are the mean recall of the
        best 1, 10 and 100 detections of each class in an image.
        """
        precision, recall, objects = self._measure()
        best = precision[..., -1]
        metrics = {
            "AP": mean_of_known(best[:, :, :, 0]),
            "AP50": mean_of_known(best[0, :, :, 0]),
            "AP75": mean_of_known(best[5, :, :, 0]),
            **{f"AP{size}": mean_of_known(best[:, :, :, i]) for i, size in enumerate(_SIZES, start=1)},
            **{f"AR{most}": mean_of_known(recall[:, :, 0, i]) for i, most in enumerate(MAX_DETECTIONS)},
            **{f"AR{size}": mean_of_known(recall[:, :, i, -1]) for i, size in enumerate(_SIZES, start=1)},
        }
        missing = [size for size in _SIZES if math.isnan(metrics[f"AR{size}"])]
        return Scores(
            metrics=metrics,
            per_class={
                name: {
                    "AP": mean_of_known(best[:, :, class_id, 0]),
                    "AP50": mean_of_known(best[0, :, class_id, 0]),
                    "objects": int(objects[class_id]),
                }
                for class_id, name in enumerate(self.class_names)
            },
            notes=(*note_on_missing(self.class_names, objects, "AP", "object"), *_note_on_sizes(missing)),
        )

    def save_plots(self, directory: Path) -> list[Path]:
        """Draws the precision-recall curves at IoU 0.50 into ``directory`` and returns the files."""
        from mbv2kit.evaluation import plots

        precision = self._measure()[0][0, :, :, 0, -1].T
        return [plots.precision_recall_curves(precision, self.class_names, directory / "precision_recall.png")]

    def _measure(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Returns precision, recall and number of objects as the protocol has them, with NaN instead of -1."""
        if not self.images:
            count = len(self.class_names)
            return np.full((10, 101, count, 4, 3), np.nan), np.full((10, count, 4, 3), np.nan), np.zeros(count, int)
        measured = {key: value.numpy() for key, value in self._protocol.compute().items()}
        precision, recall = (np.where(measured[key] < 0, np.nan, measured[key]) for key in ("precision", "recall"))
        return precision, recall, measured["objects"].reshape(-1)

    def _annotated(self, sample: Sample) -> Annotated:
        if sample.boxes is None or sample.labels is None or sample.crowd is None:
            raise ValueError(f"{sample.image_id}: a sample without boxes cannot be evaluated")
        boxes = xywh(sample.boxes)
        # Processes share the images in turns, so that this is the position in the data set.
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return Annotated(
            boxes=boxes,
            class_ids=sample.labels,
            crowd=sample.crowd,
            areas=boxes[:, 2] * boxes[:, 3],
            order=self.images * processes + rank,
        )


def _note_on_sizes(missing: Sequence[str]) -> tuple[str, ...]:
    """Returns a sentence on the sizes of which the ground truth holds no object; nothing where it holds none at all."""
    if not missing or len(missing) == len(_SIZES):
        return ()
    kinds = " and no ".join(_SIZES[size] for size in missing)
    names = ", ".join(f"AP{size} and AR{size}" for size in missing)
    return (
        f"The ground truth holds no {kinds} object, so {names} cannot be measured (up to 32² pixels are small, up to "
        "96² medium).",
    )
