"""Reads parts of images, decoded no larger than they are needed."""

from pathlib import Path
from typing import Protocol

from mbv2kit.imaging.images import Head, read_undecoded, reading
from mbv2kit.imaging.jpeg import decode_jpeg, decode_top
from mbv2kit.imaging.orientation import UPRIGHT, is_sideways, stored_box, turn
from mbv2kit.imaging.resizing import average_blocks, needed_scale, resize_part
from mbv2kit.structures import Image

# ``(x1, y1, x2, y2)`` in whole pixels.
Rectangle = tuple[int, int, int, int]


class Parts(Protocol):
    """An image of which parts can be taken.

    Attributes:
        size: Its height and width in pixels.
    """

    size: tuple[int, int]

    def cut(self, box: Rectangle, height: int, width: int) -> Image:
        """Returns the part ``box``, which lies in the image, resized to ``(height, width, 3)``."""


class KnownParts:
    """Parts of an image that is in memory, at full size or as averages over blocks of its pixels.

    Args:
        pixels: ``(H, W, 3)``, as the file stores them.
        head: Size and orientation of the image; None for those of upright ``pixels``.
        reduced: Side of the blocks; every part has this many times the pixels that are asked for, or more.
    """

    def __init__(self, pixels: Image, head: Head | None = None, reduced: int = 1) -> None:
        self._head = Head((pixels.shape[0], pixels.shape[1]), UPRIGHT) if head is None else head
        self.size = self._head.upright
        self._pixels = pixels
        self._reduced = reduced

    def cut(self, box: Rectangle, height: int, width: int) -> Image:
        """Returns a part of the image; see :class:`Parts`."""
        part, wanted = _stored(box, (height, width), self._head)
        return turn(resize_part(self._pixels, part, wanted, self._reduced), self._head.orientation)


class FileParts:
    """Parts of an image file.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves the pixels that a part needs, and only down to
    the last row of the part. The result differs from a cut of the whole image by less than half a gray level on
    average.

    Args:
        path: The file.

    Attributes:
        head: Size and orientation of the image.
        size: Its height and width in pixels.

    Raises:
        UnreadableImageError: See :func:`mbv2kit.imaging.images.decode`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with reading(path):
            self._data, self.head, self._pixels = read_undecoded(path)
        self.size = self.head.upright

    def cut(self, box: Rectangle, height: int, width: int) -> Image:
        """Returns a part of the image; see :class:`Parts`.

        Raises:
            UnreadableImageError: Pixels of the part, or above it, are lost.
        """
        part, wanted = _stored(box, (height, width), self.head)
        if self._pixels is not None:
            return resize_part(self._pixels, part, wanted)
        reduced = needed_scale((part[3] - part[1], part[2] - part[0]), wanted)
        with reading(self._path):
            # Between two blocks, pixels are interpolated.
            pixels = decode_top(self._data, self.head.stored, reduced, part[3] + reduced)
        return turn(resize_part(pixels, part, wanted, reduced), self.head.orientation)

    def averages(self, reduced: int) -> Image:
        """Returns the averages of the stored pixels over blocks of 1, 2, 4 or 8, for :class:`KnownParts`.

        Returns:
            ``(H / reduced, W / reduced, 3)``, rounded up.

        Raises:
            UnreadableImageError: Pixels are lost.
        """
        if self._pixels is not None:
            return average_blocks(self._pixels, reduced)
        with reading(self._path):
            return decode_jpeg(self._data, self.head.stored, reduced)


def _stored(box: Rectangle, wanted: tuple[int, int], head: Head) -> tuple[Rectangle, tuple[int, int]]:
    """Returns a part, and the size that it is resized to, in stored pixels: turned last, when they are fewest."""
    turned = wanted[::-1] if is_sideways(head.orientation) else wanted
    return stored_box(box, head.upright, head.orientation), (turned[0], turned[1])
