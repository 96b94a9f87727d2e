"""Clips boxes to their image, when annotations are read and again after augmentation."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbv2kit.errors import first_few
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
    """Keeps the annotated objects that an image can hold, and counts what is odd about their boxes.

    Args:
        min_side: Shortest side of a box in pixels, after it is clipped to its image.
        file: Name of the file that holds all boxes, for messages; empty if there is none.

    Attributes:
        dropped: Name of the image of each dropped object, by the reason.
        of_file: How messages name the file, such as `` of labels.json``.
    """

    def __init__(self, min_side: float, file: str = "") -> None:
        self.of_file = f" of {file}" if file else ""
        self.dropped: dict[str, list[str]] = {"without area": [], "outside their image": [], "with NaN or infinity": []}
        self._min_side = min_side
        self._beyond: list[str] = []
        self._boxes = 0
        self._tiny = 0

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
        # Numbers beyond the range of float32 become infinite.
        with np.errstate(over="ignore"):
            given = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        clipped, keep = clean_boxes(given, *size, self._min_side)
        self._count(name, size, given, keep)
        return [item for item, good in zip(objects, keep, strict=True) if good], clipped[keep]

    def _count(self, name: str, size: tuple[int, int], boxes: Boxes, keep: NDArray[np.bool_]) -> None:
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(boxes).all(axis=1))
        boxes = np.where(finite[:, None], boxes, np.float32(0))
        (left, top, right, bottom), (height, width) = boxes.T, size
        area = (right > left) & (bottom > top)
        outside = area & ((right <= 0) | (bottom <= 0) | (left >= width) | (top >= height))
        for reason, found in zip(self.dropped, (~outside & finite, outside, ~finite), strict=True):
            self.dropped[reason] += [name] * int((found & ~keep).sum())
        # Rounding moves borders by a fraction of a pixel.
        beyond = area & ((left < -1) | (top < -1) | (right > width + 1) | (bottom > height + 1))
        self._beyond += [name] * int(beyond.sum())
        self._boxes += len(boxes)
        self._tiny += int((area & (right - left <= self._min_side + 1) & (bottom - top <= self._min_side + 1)).sum())

    def warnings(self) -> Iterator[str]:
        """Yields a sentence for each sign that boxes have other units, another format or belong to other images."""
        boxes = f"{self._boxes} boxes{self.of_file}"
        if self._beyond:
            images = list(dict.fromkeys(self._beyond))
            yield (
                f"{len(self._beyond)} of {boxes} reach beyond their image by more than a pixel, in {len(images)} "
                f"images: {first_few(images)}; they are clipped. Check the format of the boxes, and that the images "
                "are those that were annotated"
            )
        if self._tiny and self._tiny == self._boxes:
            yield f"All {boxes} are no larger than a pixel; expected boxes in pixels, not as fractions of the image"
