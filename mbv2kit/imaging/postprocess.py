"""Converts a network's outputs to predictions, whichever runtime computed them; needs no torch.

A network returns the arrays of its heads, each with a row for every image of the batch:

* classification: ``probabilities`` ``(B, num_classes)`` float32 in 0..1;
* detection: ``boxes`` ``(B, N, 4)`` float32 on the unit square and ``scores`` ``(B, N, num_classes)`` float32 in 0..1;
  or, from a graph that includes non-maximum suppression, ``detections`` ``(B, K, 6)`` float32: x1, y1, x2, y2 in input
  pixels, score and class, highest score first; unused rows have score 0;
* segmentation: ``mask`` ``(B, H, W)`` uint8 class index of every pixel of the input.

A head with a name of its own has that before the names of its arrays: ``color_probabilities``.

Ranking and non-maximum suppression depend on the data, which is why they are here and not in the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.schema import check_fields
from mbv2kit.schema.rules import Share, between
from mbv2kit.structures import TASKS, Boxes, Classification, Detections, Prediction, Segmentation, Task

Outputs = Mapping[str, NDArray[Any]]

OUTPUT_NAMES: Mapping[Task, tuple[str, ...]] = {
    "classification": ("probabilities",),
    "detection": ("boxes", "scores"),
    "segmentation": ("mask",),
}
DETECTIONS = "detections"
_FOUND: Mapping[Task, tuple[str, ...]] = {"classification": (), "detection": (DETECTIONS,), "segmentation": ()}
T = TypeVar("T")
_CANDIDATES = 1000


def output_name(head: str, name: str) -> str:
    """Returns what an array of a head is called: ``probabilities``, or ``color_probabilities`` by its own name."""
    return name if head in TASKS else f"{head}_{name}"


def with_head(head: str, outputs: Mapping[str, T]) -> dict[str, T]:
    """Returns the arrays of a head by the names that they have next to those of other heads."""
    return {output_name(head, name): array for name, array in outputs.items()}


def outputs_of(head: str, task: Task, outputs: Mapping[str, T]) -> dict[str, T]:
    """Returns the arrays of one head by the names that they have in a model of that head alone."""
    names = {name: output_name(head, name) for name in (*OUTPUT_NAMES[task], *_FOUND[task])}
    return {name: outputs[whole] for name, whole in names.items() if whole in outputs}


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

    score_threshold: Share
    nms_iou: Share
    max_detections: Annotated[int, between(1, 10_000)]

    def __post_init__(self) -> None:
        check_fields(self)

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


def check_outputs(
    outputs: Outputs,
    images: int,
    size: tuple[int, int],
    class_names: Mapping[str, Sequence[str]],
    tasks: Mapping[str, Task],
) -> None:
    """Checks that a network returned what its model promises.

    Args:
        outputs: What the network returned.
        images: Number of images in the batch.
        size: Height and width of the input.
        class_names: For each head of the model the names of its classes.
        tasks: The task of each head.

    Raises:
        UserError: An array is missing, has another shape, or names a class that the model does not have.
    """
    for head, names in class_names.items():
        count, task = len(names), tasks[head]
        probabilities, mask, found, boxes, scores = (
            output_name(head, name) for name in ("probabilities", "mask", DETECTIONS, "boxes", "scores")
        )
        if task == "classification":
            _check_shape(outputs, probabilities, (images, count))
        elif task == "segmentation":
            _check_shape(outputs, mask, (images, *size))
            _check_class(int(outputs[mask].max(initial=0)), mask, count)
        elif found in outputs:
            _check_shape(outputs, found, (images, None, 6))
            rows = outputs[found]
            _check_class(rows[..., 5].max(initial=0, where=rows[..., 4] > 0), found, count)
        else:
            _check_shape(outputs, boxes, (images, None, 4))
            _check_shape(outputs, scores, (images, outputs[boxes].shape[1], count))


def finite(outputs: Outputs, images: int) -> NDArray[np.bool_]:
    """Returns for each image ``(images,)`` whether its outputs are numbers.

    A box may be infinite, since it is cut at the border of the image; it may not be NaN, which no score is either.
    """
    good = np.ones(images, dtype=np.bool_)
    for name, array in outputs.items():
        if array.dtype.kind == "f":
            largest = array.reshape(images, -1).max(axis=1, initial=0)
            good &= ~np.isnan(largest) if name.endswith(("boxes", DETECTIONS)) else np.isfinite(largest)
    return good


def _check_shape(outputs: Outputs, name: str, shape: tuple[int | None, ...]) -> None:
    found = outputs[name].shape if name in outputs else None
    fits = found is not None and len(found) == len(shape)
    if not fits or any(wanted not in (None, side) for side, wanted in zip(found or (), shape, strict=True)):
        expected = " x ".join("any" if side is None else str(side) for side in shape)
        got = "nothing" if found is None else " x ".join(map(str, found)) or "a number"
        raise UserError(
            f"the network's output '{name}' must be {expected}, got {got}; its file is not that of its model.json, so "
            "export or convert the model again."
        )


def _check_class(class_id: float, name: str, count: int) -> None:
    if not 0 <= class_id < count:
        raise UserError(
            f"the network's output '{name}' names class {class_id:.0f}, but model.json has {count} class names "
            f"(0..{count - 1}); export or convert the model again."
        )


def postprocess(
    task: Task, outputs: Outputs, size: tuple[int, int], nms_options: NmsOptions | None = None
) -> list[Prediction]:
    """Converts the arrays of a head to a prediction for each image of the batch, in input pixels.

    Args:
        task: The head's task.
        outputs: Holds at least the arrays of that task, without a name of the head; see :func:`outputs_of`.
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
