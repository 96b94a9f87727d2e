"""Converts the pixels of Pillow images of any mode to upright RGB; needs no torch."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.imaging.libtiff import losses_told
from mbv2kit.imaging.orientation import orientation_of, turn
from mbv2kit.structures import Image

# The type of 32-bit pixels does not say how much is white. The smallest of these ranges that holds an image is its own.
_INTEGER_RANGES: tuple[int, ...] = (255, 65_535)
_FLOAT_RANGES: tuple[int, ...] = (1, 255, 65_535)
# These formats say themselves that white is 65535, and Pillow scales to it.
_DEEP_FORMATS = ("PNG", "PPM")


def from_pillow(image: PillowImage.Image) -> Image:
    """Converts a Pillow image as :func:`mbv2kit.imaging.images.decode` does a file.

    Returns:
        ``(H, W, 3)`` uint8 RGB, upright.

    Raises:
        ValueError: Values of 32 bits are in no usual range: 0..1 for floats, 0..255 or 0..65535.
        Exception: Whatever the decoder of the image raises.
    """
    _check_whole(image)
    # A TIFF tells only after loading whether Pillow has turned it already.
    with losses_told():
        image.load()
    return turn(_to_rgb(image), orientation_of(image))


def _check_whole(image: PillowImage.Image) -> None:
    """Raises :class:`ValueError` if the parts of a TIFF do not cover its size: Pillow leaves the rest black.

    A file of a few bytes could ask for a hundred million black pixels.
    """
    parts = getattr(image, "tile", ()) if image.format == "TIFF" else ()
    covered = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (part[1] or (0, 0, *image.size) for part in parts))
    if parts and covered < image.width * image.height:
        raise ValueError(f"its parts hold {covered:,} of {image.width * image.height:,} pixels")


def _to_rgb(image: PillowImage.Image) -> Image:
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow's own conversion clips values at 255, which makes a deep image white and one in 0..1 black.
        gray = _to_8_bits(np.asarray(image), image.format in _DEEP_FORMATS)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = PillowImage.new("RGBA", rgba.size, "white")
        return np.array(PillowImage.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _to_8_bits(values: NDArray[np.generic], deep: bool) -> NDArray[np.uint8]:
    floats = values.dtype.kind == "f"
    numbers = values.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    ranges = _FLOAT_RANGES if floats else _INTEGER_RANGES
    if not floats and (deep or values.dtype.itemsize == 2):
        ranges = ranges[-1:]
    # Floats may leave their range by half a gray level, as resizing with a cubic filter makes them do.
    slack = 0.5 / 255 if floats else 0.0
    top = next((top for top in ranges if high <= (1 + slack) * top), None)
    if top is None or low < -slack * top:
        expected = " or ".join(f"0..{top}" for top in ranges)
        raise ValueError(f"its values are {low:.4g}..{high:.4g}, expected {expected}")
    return np.clip(numbers * (255 / top) + 0.5, 0, 255).astype(np.uint8)
