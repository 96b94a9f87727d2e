"""Fuses the boxes that several views of an image show into one list."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.structures import Boxes, Detections


def fuse_boxes(views: Sequence[Detections], options: NmsOptions) -> Detections:
    """Returns the mean of the boxes of each object, weighted by score, with the mean score over all views.

    Boxes of one class show one object if they are from different views and overlap the best of them by more than
    ``nms_iou``; a view without such a box counts as a score of 0. If boxes were joined and suppressed instead, each
    object would have its highest score of all views, and so would each mistake: with every view there are more of them,
    and none is outvoted.

    Args:
        views: The detections of each view, at least one, in the same pixels.
        options: Their overlap, and how many boxes to keep.
    """
    boxes = np.concatenate([view.boxes for view in views])
    scores = np.concatenate([view.scores for view in views])
    class_ids = np.concatenate([view.class_ids for view in views])
    origins = np.repeat(np.arange(len(views)), [len(view.boxes) for view in views])
    order = np.argsort(-scores, kind="stable")
    # The number of each box's object; an object has the number of its best box in this order.
    objects = _objects(boxes[order], class_ids[order], origins[order], options.nms_iou)
    totals = np.bincount(objects, scores[order], minlength=len(order))
    # In float64, so that a box alone stays as it is.
    weighted = boxes[order].astype(np.float64) * scores[order, None]
    sums = np.stack([np.bincount(objects, weighted[:, side], minlength=len(order)) for side in range(4)], axis=1)
    leaders = np.flatnonzero(totals > 0)
    best = leaders[np.argsort(-totals[leaders], kind="stable")[: options.max_detections]]
    return Detections(
        (sums[best] / totals[best, None]).astype(np.float32),
        class_ids[order][best],
        (totals[best] / len(views)).astype(np.float32),
    )


def _objects(
    boxes: Boxes, class_ids: NDArray[np.int64], origins: NDArray[np.int64], threshold: float
) -> NDArray[np.int64]:
    """Returns for each box, best first, the index of the best box of its object."""
    objects = np.arange(len(boxes))
    shown = np.zeros((len(boxes), origins.max(initial=0) + 1), dtype=np.bool_)
    for index, (box, class_id, origin) in enumerate(zip(boxes, class_ids, origins, strict=True)):
        overlaps = _iou(box, boxes[:index])
        # Only the best box of an object stands for it, and a view shows an object once.
        others = (objects[:index] != np.arange(index)) | shown[:index, origin] | (class_ids[:index] != class_id)
        overlaps[others] = 0
        if index and overlaps.max() > threshold:
            objects[index] = overlaps.argmax()
        shown[objects[index], origin] = True
    return objects


def _iou(box: NDArray[np.float32], others: Boxes) -> NDArray[np.float32]:
    """Returns the intersection over union of a box ``(4,)`` with ``(N, 4)`` boxes, ``(N,)``."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + areas - shared
    iou: NDArray[np.float32] = shared / np.maximum(union, np.finfo(np.float32).tiny)
    return iou
