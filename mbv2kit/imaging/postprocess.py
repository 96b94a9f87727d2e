"""Converts a network's outputs to predictions, whichever runtime computed them; needs no torch.

A network returns the arrays of its tasks, each with a row for every image of the batch:

* classification: ``probabilities`` ``(B, num_classes)`` float32 in 0..1;
* detection: ``boxes`` ``(B, N, 4)`` float32 on the unit square and ``scores`` ``(B, N, num_classes)`` float32 in 0..1;
  or, from a graph that includes non-maximum suppression, ``detections`` ``(B, K, 6)`` float32: x1, y1, x2, y2 in input
  pixels, score and class, highest score first; unused rows have score 0;
* segmentation: ``mask`` ``(B, H, W)`` uint8 class index of every pixel of the input.

Ranking and non-maximum suppression depend on the data, which is why they are here and not in the network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.structures import Boxes, Classification, Detections, Prediction, Segmentation, Task

Outputs = Mapping[str, NDArray[Any]]

OUTPUT_NAMES: Mapping[Task, tuple[str, ...]] = {
    "classification": ("probabilities",),
    "detection": ("boxes", "scores"),
    "segmentation": ("mask",),
}
DETECTIONS = "detections"
_CANDIDATES = 1000


@dataclass(frozen=True, slots=True)
class NmsOptions:
    """Options of non-maximum suppression, and the function that selects a detector's boxes by them.

    Attributes:
        score_threshold: Boxes below it are dropped before suppression.
        nms_iou: IoU above which the box with the lower score of two boxes of a class is dropped.
        max_detections: Number of boxes that are kept for an image.

    Raises:
        UserError: A value is out of range.
    """

    score_threshold: float
    nms_iou: float
    max_detections: int

    def __post_init__(self) -> None:
        check_shares(score_threshold=self.score_threshold, nms_iou=self.nms_iou)
        if self.max_detections < 1:
            raise UserError(f"max_detections must be at least 1, got {self.max_detections}.")

    def __call__(self, boxes: Boxes, scores: NDArray[np.float32], size: tuple[int, int]) -> Detections:
        """Returns the detections of one image in input pixels, clipped to the input.

        Args:
            boxes: ``(N, 4)`` on the unit square.
            scores: ``(N, num_classes)`` in 0..1, without background.
            size: Height and width of the input.
        """
        box, class_ids = np.nonzero(scores > np.float32(self.score_threshold))
        values = scores[box, class_ids]
        if len(values) > _CANDIDATES:
            best = np.argsort(-values, kind="stable")[:_CANDIDATES]
            box, class_ids, values = box[best], class_ids[best], values[best]
        limits = np.array([size[1], size[0], size[1], size[0]], dtype=np.float32)
        pixels = np.clip(boxes[box] * limits, 0, limits)
        keep = suppress(pixels, values, class_ids, self.nms_iou, self.max_detections)
        return Detections(pixels[keep], class_ids[keep], values[keep])


def suppress(
    boxes: Boxes, scores: NDArray[np.float32], class_ids: NDArray[np.int64], threshold: float, limit: int
) -> NDArray[np.int64]:
    """Performs non-maximum suppression within each class.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        class_ids: ``(N,)``.
        threshold: IoU above which the box with the lower score is dropped.
        limit: Largest number of boxes to keep.

    Returns:
        Indices of the kept boxes, highest score first; of equal scores, the earlier box comes first.
    """
    order = np.argsort(-scores, kind="stable")
    corners_and_sizes = boxes[order].astype(np.float64)
    corners_and_sizes[:, 2:] -= corners_and_sizes[:, :2]
    scores, classes = scores[order], class_ids[order].astype(np.int32)
    # OpenCV's type hints ask for lists, which take far longer than arrays.
    nms: Any = cv2.dnn.NMSBoxesBatched
    # Whether a box is dropped depends only on boxes with higher scores, and the time grows with the square of their
    # number. So the best boxes are tried alone, and more are added only if too few remain.
    tried = min(len(order), 3 * limit)
    while True:
        found = nms(corners_and_sizes[:tried], scores[:tried], classes[:tried], -1.0, threshold)
        if len(found) >= limit or tried == len(order):
            return np.asarray(order[np.asarray(found[:limit], dtype=np.int64)])
        tried = min(len(order), 2 * tried)


def postprocess(
    task: Task, outputs: Outputs, size: tuple[int, int], nms_options: NmsOptions | None = None
) -> list[Prediction]:
    """Converts the arrays of a task to a prediction for each image of the batch, in input pixels.

    Args:
        task: The task whose arrays to convert.
        outputs: Holds at least the arrays of that task, as described at the top of this module.
        size: Height and width of the input.
        nms_options: Needed for detection without ``detections``; ignored otherwise.
    """
    if task == "classification":
        return [_rank(probabilities) for probabilities in outputs["probabilities"]]
    if task == "detection":
        if DETECTIONS in outputs:
            return [_found(rows[rows[:, 4] > 0]) for rows in outputs[DETECTIONS]]
        assert nms_options is not None
        return [
            nms_options(boxes, scores, size) for boxes, scores in zip(outputs["boxes"], outputs["scores"], strict=True)
        ]
    return [Segmentation(mask) for mask in outputs["mask"]]


def _found(rows: NDArray[np.float32]) -> Detections:
    return Detections(rows[:, :4], rows[:, 5].astype(np.int64), rows[:, 4])


def _rank(probabilities: NDArray[np.float32]) -> Classification:
    order = np.argsort(-probabilities, kind="stable")
    return Classification(order, probabilities[order])


def check_shares(**options: float) -> None:
    """Raises :class:`UserError` unless each option is in 0..1."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name} must be in 0..1, got {value}.")
