"""Resizes images and masks with the filters that the whole project uses; needs no torch."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# libjpeg-turbo decodes quickly at 1/2, 1/4 and 1/8 of an image's size. Other fractions take longer than the next
# larger of these, or than the whole image.
MOST_REDUCED = 8


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes pixels with the one filter that the whole project uses.

    A side that becomes at most half as long is first averaged over blocks of 2, 4, 8, ... pixels, as large as the
    requested size allows. Linear interpolation between the centers of the blocks does the rest.
    """
    return resize_reduced(image, (image.shape[0], image.shape[1]), (height, width), 1)


def resize_reduced(
    image: NDArray[np.uint8], whole: tuple[int, int], wanted: tuple[int, int], reduced: int
) -> NDArray[np.uint8]:
    """Resizes an image of size ``whole``, given as ``image``, its averages over blocks of ``reduced`` pixels."""
    blocks = [max(reduced, largest_block(*sides)) for sides in zip(whole, wanted, strict=True)]
    averages = _average(image, blocks[0] // reduced, blocks[1] // reduced)
    # The last blocks may reach beyond the image, so the scale is that of the whole image, not of the blocks.
    y, x = (to * block / side for side, to, block in zip(whole, wanted, blocks, strict=True))
    if y == x == 1:
        return averages
    height, width = averages.shape[:2]
    if (round(height * y), round(width * x)) == (height, width):
        # cv2.resize would only copy here.
        back = np.array([[1 / x, 0, 0.5 / x - 0.5], [0, 1 / y, 0.5 / y - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        resized = cv2.warpAffine(averages, back, wanted[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    else:
        resized = cv2.resize(averages, None, fx=x, fy=y, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[: wanted[0], : wanted[1]], dtype=np.uint8)


def resize_part(
    averages: NDArray[np.uint8], box: tuple[int, int, int, int], wanted: tuple[int, int], reduced: int = 1
) -> NDArray[np.uint8]:
    """Resizes a part of an image, of which the averages over blocks of ``reduced`` pixels suffice.

    The filter is that of :func:`resize_image`, but the blocks that it averages over first begin at the corner of the
    image, wherever the part does, so that the averages that a decoder yields replace them.

    Args:
        averages: ``(H, W, 3)``, the image from its top left corner to the end of the part or beyond.
        box: ``(x1, y1, x2, y2)``, the part, in pixels of the image.
        wanted: Height and width of the result.
        reduced: 1, 2, 4 or 8; 1 for the pixels of the image.
    """
    x1, y1, x2, y2 = box
    sides = (y2 - y1, x2 - x1)
    block = max(reduced, needed_scale(sides, wanted))
    top, left = y1 // block * block, x1 // block * block
    if (top, left) == (y1, x1):
        part = averages[y1 // reduced : -(-y2 // reduced), x1 // reduced : -(-x2 // reduced)]
        return resize_reduced(part, sides, wanted, reduced)
    # Whole blocks, but for those at the end of the image.
    bottom, right = -(-y2 // block) * block, -(-x2 // block) * block
    part = averages[top // reduced : bottom // reduced, left // reduced : right // reduced]
    part = average_blocks(part, block // reduced)
    along = [max(block, largest_block(*each)) for each in zip(sides, wanted, strict=True)]
    part = _average(part, along[0] // block, along[1] // block)
    # Between the centers of the pixels of the result, and from the corner of the blocks to the first of them.
    (step_y, start_y), (step_x, start_x) = (
        (side / to / width, (first - corner + side / to / 2) / width - 0.5)
        for side, to, width, first, corner in zip(sides, wanted, along, (y1, x1), (top, left), strict=True)
    )
    back = np.array([[step_x, 0, start_x], [0, step_y, start_y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    resized = cv2.warpAffine(part, back, wanted[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(resized, dtype=np.uint8)


def needed_scale(part: Sequence[int], wanted: Sequence[int]) -> int:
    """Returns the side of the largest blocks, 1, 2, 4 or 8, over which a part may be averaged before it is resized.

    Args:
        part: Height and width of the part.
        wanted: Height and width that it is resized to.
    """
    return min(MOST_REDUCED, *(largest_block(*sides) for sides in zip(part, wanted, strict=True)))


def average_blocks(image: NDArray[np.uint8], reduced: int) -> NDArray[np.uint8]:
    """Returns the averages of an image over blocks of ``reduced`` pixels, a power of 2; its sides are rounded up."""
    return _average(image, reduced, reduced)


def resize_as_tf1(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """Resizes pixels as ``tf.image.resize_bilinear`` of TensorFlow 1, which its detectors were trained with.

    Pixel i of the result lies at ``i * side / new side`` of the image, so only the top left corners are aligned, and is
    interpolated from the nearest four pixels however much the image shrinks. The result is float32: rounded to whole
    gray levels, it would change a detector's scores by up to 0.03.
    """
    top, bottom, y = _between(image.shape[0], height)
    left, right, x = _between(image.shape[1], width)
    corners = [image[np.ix_(rows, columns)].astype(np.float32) for rows in (top, bottom) for columns in (left, right)]
    upper, lower = (first + (second - first) * x[:, None] for first, second in (corners[:2], corners[2:]))
    return np.asarray(upper + (lower - upper) * y[:, None, None], dtype=np.float32)


def _between(side: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Returns the two pixels between which each new one lies, and its distance from the first."""
    places = np.arange(wanted, dtype=np.float32) * np.float32(side / wanted)
    before = np.minimum(places.astype(np.int64), side - 1)
    return before, np.minimum(before + 1, side - 1), places - before.astype(np.float32)


def largest_block(side: int, wanted: int) -> int:
    """Returns the largest power of 2 by which a side can be divided so that ``wanted`` pixels remain."""
    return 1 << max(0, (side // wanted).bit_length() - 1)


def _average(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Averages over blocks; those that reach beyond the image repeat its last row and column, as JPEG does."""
    if rows == columns == 1:
        return image
    bottom, right = -image.shape[0] % rows, -image.shape[1] % columns
    if bottom or right:
        image = np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8)
    size = (image.shape[1] // columns, image.shape[0] // rows)
    # Between two pixels, linear interpolation is the average too, and four times as fast.
    interpolation = cv2.INTER_LINEAR if max(rows, columns) == 2 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), dtype=np.uint8)


def cut_center(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Returns the center of an image, a view of ``height`` x ``width`` pixels."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def cut_box(image: NDArray[np.uint8], box: NDArray[np.float32], margin: float) -> NDArray[np.uint8]:
    """Returns the pixels of an image that a box touches, as a view.

    Args:
        image: ``(H, W, 3)``.
        box: ``(4,)``, the corners x1, y1, x2 and y2 in pixels; some of it lies in the image.
        margin: What is added around the box, as a share of its width and height, from 0 up; it ends at the border of
            the image.
    """
    height, width = image.shape[:2]
    border = (box[2:] - box[:2]) * margin
    left, top = np.floor(np.maximum(box[:2] - border, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(box[2:] + border, (width, height))).astype(int)
    return image[top:bottom, left:right]


def resize_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes class indices; each new pixel takes the class under its center."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def count_values(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns how many pixels of a mask ``(H, W)`` have each of the values 0..255, ``(256,)``."""
    # np.bincount would first turn every pixel into eight bytes.
    return cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
