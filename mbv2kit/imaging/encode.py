"""Encodes images as JPEG and PNG, and masks as PNG."""

import zlib
from io import BytesIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError
from mbv2kit.structures import Image

# libjpeg's limit.
_MOST_PIXELS = 65_500


class TooLargeError(UserError):
    """The image is larger than its format allows."""


def check_jpeg_size(height: int, width: int) -> None:
    """Raises :class:`TooLargeError` for an image that no JPEG can hold."""
    if max(height, width) > _MOST_PIXELS:
        raise TooLargeError(
            f"a JPEG has at most {_MOST_PIXELS:,} pixels a side, not {width:,} x {height:,}; save the image as PNG."
        )


def encode_jpeg(image: Image) -> bytes:
    """Returns an image ``(H, W, 3)`` uint8 RGB as the bytes of a JPEG.

    Raises:
        TooLargeError: A side is longer than 65,500 pixels.
    """
    check_jpeg_size(*image.shape[:2])
    data: bytes = simplejpeg.encode_jpeg(image, quality=92, colorspace="RGB", colorsubsampling="420", fastdct=False)
    return data


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Returns an image ``(H, W, 3)`` or a mask ``(H, W)``, uint8, as the bytes of a PNG, which loses nothing."""
    file = BytesIO()
    PillowImage.fromarray(pixels).save(file, "png")
    return file.getvalue()


def encode_mask(mask: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Returns a mask ``(H, W)`` as the bytes of a PNG in colors.

    Args:
        mask: The class of every pixel.
        palette: ``(N, 3)`` the color of each class.
    """
    image, file = PillowImage.fromarray(mask), BytesIO()
    image.putpalette(palette.tobytes())
    # Regions are long runs of one class: searching only for runs takes a third of the time, and fewer bytes.
    image.save(file, "png", compress_type=zlib.Z_RLE)
    return file.getvalue()
