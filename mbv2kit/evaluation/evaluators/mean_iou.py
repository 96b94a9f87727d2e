"""Segmentation: mean intersection over union and pixel accuracy, from one confusion matrix over all pixels."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbv2kit.evaluation.classes import (
    check_ground_truth,
    check_prediction,
    mean_of_known,
    note_on_missing,
    share,
    unique_names,
)
from mbv2kit.evaluation.counts import ConfusionMatrix
from mbv2kit.evaluation.evaluators.base import EVALUATORS, Evaluator
from mbv2kit.evaluation.scores import Scores
from mbv2kit.structures import IGNORE, Sample, Segmentation


@EVALUATORS.register("mean_iou")
class MeanIoU(Evaluator):
    """Counts the pixels of the whole data set, as Pascal VOC does, instead of averaging over images.

    Pixels whose ground truth is 255 are ignored. A class that occurs in neither ground truth nor predictions has no IoU
    (NaN) and is left out of the mean; a class that is predicted but never true has IoU 0 and counts. Ground truth of
    one class only has no mIoU (NaN): a model that always predicts this class would score 1.

    Args:
        class_names: The data set's classes, in the order of their ids, including the background if there is one.
    """

    task = "segmentation"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = unique_names(class_names)
        self.images = 0
        self._confusion = ConfusionMatrix(len(class_names))

    def update(self, prediction: Segmentation, ground_truth: Sample) -> None:
        """Adds one image; images may differ in size.

        Args:
            prediction: The class of every pixel of the image.
            ground_truth: The sample with its ``mask``.

        Raises:
            UserError: A class id, other than 255 in the ground truth, is not in the data set.
        """
        if ground_truth.mask is None or prediction.mask.shape != ground_truth.mask.shape:
            expected = "none" if ground_truth.mask is None else ground_truth.mask.shape
            raise ValueError(
                f"{ground_truth.image_id}: a prediction of {prediction.mask.shape} needs such a mask, got {expected}"
            )
        counted = ground_truth.mask != IGNORE
        true_ids, predicted_ids = ground_truth.mask[counted], prediction.mask[counted]
        check_ground_truth(true_ids, len(self.class_names), ground_truth.image_id)
        check_prediction(predicted_ids, len(self.class_names), ground_truth.image_id)
        self.images += 1
        self._confusion.update(true_ids, predicted_ids)

    def compute(self) -> Scores:
        """Returns ``mIoU`` and ``pixel_accuracy``; per class ``IoU`` and its ``share`` of the true pixels."""
        matrix = self._confusion.matrix()
        right, true_pixels = matrix.diagonal(), matrix.sum(axis=1)
        shares = share(true_pixels, true_pixels.sum())
        iou = _iou(matrix)
        notes = note_on_missing(self.class_names, true_pixels, "mIoU", "pixel")
        only = [name for name, pixels in zip(self.class_names, true_pixels, strict=True) if pixels]
        if len(only) == 1:
            notes = (*notes, f"The ground truth holds class '{only[0]}' only, so mIoU cannot be measured.")
        return Scores(
            metrics={
                "mIoU": mean_of_known(iou) if len(only) > 1 else math.nan,
                "pixel_accuracy": float(share(right.sum(), true_pixels.sum())),
            },
            per_class={
                name: {"IoU": class_iou, "share": class_share}
                for name, class_iou, class_share in zip(self.class_names, iou.tolist(), shares.tolist(), strict=True)
            },
            notes=notes,
        )

    def save_plots(self, directory: Path) -> list[Path]:
        """Draws the IoU of each class and the confusion matrix into ``directory`` and returns the files."""
        from mbv2kit.evaluation import plots

        matrix = self._confusion.matrix()
        return [
            plots.class_bars(_iou(matrix), self.class_names, directory / "iou_per_class.png", measure="IoU"),
            plots.confusion_matrix(matrix, self.class_names, directory / "confusion_matrix.png"),
        ]


def _iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    intersection = matrix.diagonal()
    return share(intersection, matrix.sum(axis=0) + matrix.sum(axis=1) - intersection)
