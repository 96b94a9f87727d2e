"""Clips boxes to their image, when annotations are read and again after augmentation."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbv2kit.structures import Boxes

A = TypeVar("A")


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


class ObjectFilter:
    """Keeps the annotated objects that an image can hold, and remembers where it dropped others.

    Args:
        min_side: Shortest side of a box in pixels, after it is clipped to its image.

    Attributes:
        dropped: Name of the image of each dropped object.
    """

    def __init__(self, min_side: float) -> None:
        self.dropped: list[str] = []
        self._min_side = min_side

    def __call__(
        self, name: str, size: tuple[int, int], objects: Sequence[A], boxes: ArrayLike
    ) -> tuple[list[A], Boxes]:
        """Returns the n objects of an image that are kept, and their clipped ``(n, 4)`` boxes.

        Args:
            name: Name of the image.
            size: Height and width of the image in pixels.
            objects: What the data set knows about each object.
            boxes: A box per object, ``xyxy`` pixels.
        """
        clipped, keep = clean_boxes(np.asarray(boxes, dtype=np.float32), *size, self._min_side)
        self.dropped += [name] * int((~keep).sum())
        return [item for item, good in zip(objects, keep, strict=True) if good], clipped[keep]
