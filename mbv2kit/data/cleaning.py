"""Clips boxes to their image, when annotations are read and again after augmentation."""

import numpy as np
from numpy.typing import NDArray

from mbv2kit.structures import Boxes


def clean_boxes(boxes: Boxes, height: int, width: int, min_side: float = 1.0) -> tuple[Boxes, NDArray[np.bool_]]:
    """Clips boxes to the image and returns which of them are still valid.

    Args:
        boxes: ``(N, 4)`` ``xyxy`` pixels; may extend beyond the image, end before they start or hold NaN.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        min_side: Shortest side in pixels that a clipped box may have; a box without area is never kept.

    Returns:
        All N boxes clipped to ``[0, width] x [0, height]``, float32, and ``(N,)`` bool, True for those to keep.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    finite = np.asarray(np.all(np.isfinite(boxes), axis=1))
    limits = np.array([width, height, width, height], dtype=np.float32)
    clipped = np.clip(np.where(finite[:, None], boxes, np.float32(0)), 0, limits)
    sides = clipped[:, 2:] - clipped[:, :2]
    keep = finite & np.all((sides > 0) & (sides >= min_side), axis=1)
    return clipped, keep
