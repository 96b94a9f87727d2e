"""The orientation of an image: how its stored pixels become upright, by one function for sizes, pixels and boxes.

Orientations are those of EXIF: 1 is upright, 2 to 4 are mirrored or upside down, and from 5 on rows and columns are
exchanged as well.
"""

import struct

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.structures import Boxes

UPRIGHT = 1
_EXIF_ORIENTATION = 0x0112
_SHORT = 3
_SIDEWAYS = 5
# A quarter turn is undone by that to the other side, and every other orientation by itself.
_BACK = {6: 8, 8: 6}
# The flips that follow the exchange of rows and columns, by the codes of cv2.flip: 0 upside down, 1 left to right, -1
# both.
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}


def orientation_of(image: PillowImage.Image) -> int:
    """Returns the orientation 1..8 of an image by its EXIF or XMP, as Pillow finds it; 1 if it says none or nonsense.

    A TIFF tells only after loading whether Pillow has turned it already.
    """
    try:
        found = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # damaged EXIF may raise anything, and the pixels are fine
        return UPRIGHT
    # The number may also be a fraction; a text is no number.
    return next((value for value in range(1, 9) if found == value), UPRIGHT)


def orientation_in(exif: bytes, xmp: bytes) -> int:
    """Returns what :func:`orientation_of` says of an image with this EXIF and XMP; empty ones mean none.

    Pillow takes ten times as long to read what a camera usually writes.
    """
    if not exif and not xmp:
        return UPRIGHT
    try:
        kind, count, value = _orientation_entry(exif)
    except (struct.error, LookupError):
        kind = count = value = 0
    if kind == _SHORT and count == 1:
        return value if UPRIGHT <= value <= 8 else UPRIGHT
    bare = PillowImage.Image()
    bare.info = {"exif": exif, "xmp": xmp} if exif else {"xmp": xmp}
    return orientation_of(bare)


def _orientation_entry(exif: bytes) -> tuple[int, int, int]:
    """Returns the type, the number and the first of the values of the orientation; raises LookupError without one."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = ">" if tiff[:2] == b"MM" else "<"
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number, value = struct.unpack_from(order + "HHIH", tiff, place)
        if tag == _EXIF_ORIENTATION:
            return kind, number, value
    raise LookupError


def is_sideways(orientation: int) -> bool:
    """Tells whether height and width of the stored pixels are exchanged in the upright image."""
    return orientation >= _SIDEWAYS


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns stored pixels, an image or a mask, upright; OpenCV is many times as fast as a copy of a numpy view."""
    if is_sideways(orientation):
        pixels = np.asarray(cv2.transpose(pixels), dtype=np.uint8)
    if orientation in _FLIPS:
        pixels = np.asarray(cv2.flip(pixels, _FLIPS[orientation]), dtype=np.uint8)
    return pixels


def turn_boxes(boxes: Boxes, stored: tuple[int, int], orientation: int) -> Boxes:
    """Turns boxes with the pixels.

    Args:
        boxes: ``(N, 4)`` ``xyxy`` in stored pixels.
        stored: Height and width of the stored pixels.
        orientation: Orientation of the image.

    Returns:
        The boxes in upright pixels, ``(N, 4)``.
    """
    height, width = stored
    if is_sideways(orientation):
        boxes, height, width = boxes[:, [1, 0, 3, 2]], width, height
    flip = _FLIPS.get(orientation)
    x1, y1, x2, y2 = boxes.T
    if flip in (1, -1):
        x1, x2 = width - x2, width - x1
    if flip in (0, -1):
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], axis=1)


def stored_box(box: tuple[int, int, int, int], upright: tuple[int, int], orientation: int) -> tuple[int, int, int, int]:
    """Returns where the part of an upright image lies in its stored pixels.

    Args:
        box: ``(x1, y1, x2, y2)`` in upright pixels.
        upright: Height and width of the upright image.
        orientation: Orientation of the image.
    """
    if orientation == UPRIGHT:
        return box
    turned = turn_boxes(np.array([box], dtype=np.float32), upright, _BACK.get(orientation, orientation))
    x1, y1, x2, y2 = turned[0].astype(int).tolist()
    return x1, y1, x2, y2
