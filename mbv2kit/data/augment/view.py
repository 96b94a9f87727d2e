"""The geometry of augmentation: which part of an image becomes which part of the input.

A preset only chooses a :class:`View`; pixels, masks and boxes follow from it in one step each, so that they cannot
disagree and no pixel is interpolated twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.parts import Rectangle
from mbv2kit.schema.rules import between
from mbv2kit.structures import Boxes

# A share of an image's side or area that a view may show, and the aspect ratio or the scale of a view.
Part = Annotated[float, between(0.01, 1)]
Ratio = Annotated[float, between(0.1, 10)]


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of the image and the rectangle of the input that it fills.

    Attributes:
        source: ``(x1, y1, x2, y2)`` in whole pixels of the image.
        target: ``(x1, y1, x2, y2)`` in whole pixels of the input.
        mirror_x: Left and right change places within the target.
        mirror_y: Top and bottom change places within the target.
    """

    source: Rectangle
    target: Rectangle
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def through(cls, window: Rectangle, image: tuple[int, int], content: tuple[int, int]) -> "View":
        """Returns the view of a window that is scaled to ``content``, in the top left corner of the input.

        Args:
            window: ``(x1, y1, x2, y2)``; it may extend beyond the image, but holds at least one pixel of it.
            image: Height and width of the image.
            content: Height and width that the window is scaled to.
        """
        x1, x2, left, right = _visible(window[0], window[2], image[1], content[1])
        y1, y2, top, bottom = _visible(window[1], window[3], image[0], content[0])
        return cls((x1, y1, x2, y2), (left, top, right, bottom))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the target."""
        left, top, right, bottom = self.target
        return bottom - top, right - left

    def cut(
        self, pixels: NDArray[np.uint8], resize: Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """Returns the source of an image or mask, resized by ``resize(pixels, height, width)`` and mirrored."""
        x1, y1, x2, y2 = self.source
        return self.mirror(resize(pixels[y1:y2, x1:x2], *self.size))

    def mirror(self, part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the pixels of the target as the view mirrors them."""
        if self.mirror_x or self.mirror_y:
            around_both = self.mirror_x and self.mirror_y
            part = np.asarray(cv2.flip(part, -1 if around_both else int(self.mirror_x)), dtype=np.uint8)
        return np.ascontiguousarray(part)

    def paste(self, part: NDArray[np.uint8], canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns the canvas, an image or mask of the input's size, with ``part`` in the target."""
        left, top, right, bottom = self.target
        canvas[top:bottom, left:right] = part
        return canvas

    def convert(self, boxes: Boxes) -> Boxes:
        """Converts ``(N, 4)`` boxes from image pixels to input pixels, without clipping them to the source."""
        source, target = np.array(self.source, dtype=np.float64), np.array(self.target, dtype=np.float64)
        scale = (target[2:] - target[:2]) / (source[2:] - source[:2])
        converted = (boxes.reshape(-1, 2, 2) - source[:2]) * scale + target[:2]
        for axis, mirrored in enumerate((self.mirror_x, self.mirror_y)):
            if mirrored:
                converted[:, :, axis] = (target[axis] + target[axis + 2]) - converted[:, ::-1, axis]
        return converted.reshape(-1, 4).astype(np.float32)


def _visible(start: int, stop: int, image: int, content: int) -> tuple[int, int, int, int]:
    """Returns, for one axis, the part of the image in a window and its place in the content."""
    first, last = max(start, 0), min(stop, image)
    scale = content / (stop - start)
    # Even the smallest part of the image fills a pixel: neither rectangle may become empty.
    low = min(round((first - start) * scale), content - 1)
    high = max(round((last - start) * scale), low + 1)
    return first, last, low, high


def centers_inside(boxes: NDArray[np.float32], windows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns ``(W, N)`` bool, whether the center of each of ``(N, 4)`` boxes is in each of ``(W, 4)`` windows."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = windows[:, None, :2], windows[:, None, 2:]
    return np.asarray(((centers >= low) & (centers < high)).all(axis=2))
