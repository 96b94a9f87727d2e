"""Decodes and resizes image files; needs no torch.

Training, validation, evaluation and inference all use these functions, so that a model scores the same wherever it
runs.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from mbv2kit.errors import UserError, one_line
from mbv2kit.structures import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})

_EXIF_ORIENTATION = 0x0112
# EXIF orientations from 5 on exchange rows and columns. Some then flip the image, by the codes of cv2.flip: 0 upside
# down, 1 left to right, -1 both.
_SIDEWAYS = 5
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}
# Pillow's limit for other formats: a file that claims more pixels is a mistake or an attack.
_MOST_PIXELS = 178_956_970
# libjpeg-turbo decodes quickly at 1/2, 1/4 and 1/8 of an image's size. Other fractions take longer than the next
# larger of these, or than the whole image.
_MOST_REDUCED = 8


class UnreadableImageError(UserError):
    """The file is missing, truncated or not an image."""


def decode(path: str | Path) -> Image:
    """Reads an image file of any format as RGB, turned upright by its EXIF orientation.

    Gray, palette, CMYK and 16-bit images become 8-bit RGB; transparent pixels are laid on white; of an animation
    the first frame is taken.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableImageError: The file is missing, empty, truncated or not an image.
    """
    with _errors_with_path(Path(path)):
        data = Path(path).read_bytes()
        stored = _jpeg_size(data)
        if stored is None:
            return _decode_with_pillow(data)
        return _turn(_decode_jpeg(data, stored, 1), _jpeg_orientation(data))


def decode_resized(
    path: str | Path,
    size: Callable[[int, int], tuple[int, int]],
    kept: Callable[[int, int], tuple[int, int]] | None = None,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Reads an image as :func:`decode` and resizes it as :func:`resize_image`, but decodes no more than it needs.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if that leaves at least the requested number of pixels. The result
    differs from averages over blocks of pixels by less than half a gray level on average.

    Args:
        path: The file.
        size: Maps the height and width of the image to those of the result.
        kept: Maps the height and width of the image to those of its center, which alone is resized; None for all of it.

    Returns:
        The resized image, and the (height, width) of the original.

    Raises:
        UnreadableImageError: See :func:`decode`.
    """
    with _errors_with_path(Path(path)):
        data = Path(path).read_bytes()
        stored = _jpeg_size(data)
        if stored is None:
            return _resize_center(_decode_with_pillow(data), size, kept)
        orientation = _jpeg_orientation(data)
        # Pixels are turned last, when they are fewest; until then, sizes are as the file stores them.
        sideways = orientation >= _SIDEWAYS
        original = stored[::-1] if sideways else stored
        if kept is not None and kept(*original) != original:
            return _resize_center(_turn(_decode_jpeg(data, stored, 1), orientation), size, kept)
        wanted = size(*original)[::-1] if sideways else size(*original)
        reduced = min(_MOST_REDUCED, _block(stored[0], wanted[0]), _block(stored[1], wanted[1]))
        resized = _resize(_decode_jpeg(data, stored, reduced), stored, wanted, reduced)
        return _turn(resized, orientation), original


def _resize_center(
    image: Image,
    size: Callable[[int, int], tuple[int, int]],
    kept: Callable[[int, int], tuple[int, int]] | None,
) -> tuple[Image, tuple[int, int]]:
    height, width = image.shape[:2]
    center = image if kept is None else cut_center(image, *kept(height, width))
    return resize_image(center, *size(*center.shape[:2])), (height, width)


def cut_center(image: Image, height: int, width: int) -> Image:
    """Returns the center of an image, a view of ``height`` x ``width`` pixels."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def upright_size(path: Path) -> tuple[int, int]:
    """Returns the height and width that :func:`decode` gives an image, from the head of its file alone if possible.

    Raises:
        UnreadableImageError: See :func:`decode`.
    """
    try:
        with PillowImage.open(path) as head:
            # Whether the size of a TIFF is turned already depends on the version of Pillow.
            if head.format != "TIFF":
                sideways = head.getexif().get(_EXIF_ORIENTATION, 1) >= _SIDEWAYS
                width, height = head.size
                return (width, height) if sideways else (height, width)
    except (OSError, ValueError, SyntaxError):
        # A damaged head need not keep the image from being read.
        pass
    return decode(path).shape[:2]


@contextmanager
def _errors_with_path(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: there is no such file.") from None
    except UnidentifiedImageError:
        raise UnreadableImageError(f"{path}: this is not an image in a known format.") from None
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: the image could not be read ({one_line(error)}).") from None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns the height and width of a JPEG as stored; None for a file that libjpeg-turbo cannot decode to RGB."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colors not in ("RGB", "YCbCr", "Gray"):
        return None
    if height * width > _MOST_PIXELS:
        raise ValueError(f"it claims to have {width} x {height} pixels")
    return height, width


def _decode_jpeg(data: bytes, stored: tuple[int, int], reduced: int) -> Image:
    """Decodes a JPEG, without turning it, at ``1 / reduced`` of its size, rounded up."""
    # The smallest scale that gives the minimum is taken. 7/8 of a few pixels rounds up to all of them, so only a
    # minimum of 0 asks for the full size.
    height, width = (-(-side // reduced) if reduced > 1 else 0 for side in stored)
    return np.asarray(
        simplejpeg.decode_jpeg(
            data,
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=height,
            min_width=width,
            min_factor=reduced,
            strict=True,
        )
    )


def _jpeg_orientation(data: bytes) -> int:
    """Returns the EXIF orientation of a JPEG; 1, which is upright, if it has none or a damaged one.

    Pillow does the same, but it rejects an image whose EXIF is damaged.
    """
    place = 2
    try:
        while True:
            marker, length = struct.unpack_from(">HH", data, place)
            if marker == 0xFFE1 and data[place + 4 : place + 10] == b"Exif\0\0":
                return _tiff_orientation(data[place + 10 : place + 2 + length])
            # Only segments with a length precede the pixels.
            if marker < 0xFFC0 or marker == 0xFFDA:
                return 1
            place += 1 if marker == 0xFFFF else 2 + length
    except struct.error:
        return 1


def _tiff_orientation(exif: bytes) -> int:
    order = ">" if exif[:2] == b"MM" else "<"
    (start,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
        if tag == _EXIF_ORIENTATION:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def _turn(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turns pixels upright; OpenCV is many times as fast as a copy of a numpy view."""
    if orientation >= _SIDEWAYS:
        image = np.asarray(cv2.transpose(image), dtype=np.uint8)
    if orientation in _FLIPS:
        image = np.asarray(cv2.flip(image, _FLIPS[orientation]), dtype=np.uint8)
    return image


def _decode_with_pillow(data: bytes) -> Image:
    with PillowImage.open(BytesIO(data)) as image:
        return from_pillow(image)


def from_pillow(image: PillowImage.Image) -> Image:
    """Converts a Pillow image as :func:`decode` does a file: to ``(H, W, 3)`` uint8 RGB, upright."""
    # A TIFF tells only after loading whether Pillow has turned it already.
    image.load()
    return _turn(_to_rgb(image), _pillow_orientation(image))


def _pillow_orientation(image: PillowImage.Image) -> int:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # damaged EXIF may raise anything, and the pixels are fine
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _to_rgb(image: PillowImage.Image) -> Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255, which makes such an image white.
        values = np.asarray(image, dtype=np.float64)
        gray = np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = PillowImage.new("RGBA", rgba.size, "white")
        return np.array(PillowImage.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes pixels with the one filter that the whole project uses.

    A side that becomes at most half as long is first averaged over blocks of 2, 4, 8, ... pixels, as large as the
    requested size allows. Linear interpolation between the centers of the blocks does the rest.
    """
    return _resize(image, (image.shape[0], image.shape[1]), (height, width), 1)


def _resize(
    image: NDArray[np.uint8], whole: tuple[int, int], wanted: tuple[int, int], reduced: int
) -> NDArray[np.uint8]:
    """Resizes an image of size ``whole``, given as ``image``, its averages over blocks of ``reduced`` pixels."""
    blocks = [_block(*sides) for sides in zip(whole, wanted, strict=True)]
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


def _block(side: int, wanted: int) -> int:
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


def resize_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes class indices; each new pixel takes the class under its center."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


def count_values(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns how many pixels of a mask ``(H, W)`` have each of the values 0..255, ``(256,)``."""
    # np.bincount would first turn every pixel into eight bytes.
    return cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
