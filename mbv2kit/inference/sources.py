"""What a predictor takes: files, and images that a program holds."""

import os
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import EncodedImage
from mbv2kit.imaging.intake import to_rgb
from mbv2kit.inference.image_paths import expand, names_several
from mbv2kit.structures import Image

# A file, the content of one, or ``(H, W, 3)`` uint8 RGB pixels.
Source = Path | EncodedImage | Image


def to_sources(images: Any, *, bgr: bool = False) -> Source | list[Source]:
    """Finds the images that a call of a predictor names.

    Args:
        images: A path, or an image as :func:`mbv2kit.imaging.intake.to_rgb` takes it; a folder, a pattern such as
            ``"photos/*.jpg"``, or a list or tuple of all of these.
        bgr: Whether arrays hold blue, green and red in this order.

    Returns:
        One source for one image; a list for a list, a folder or a pattern.

    Raises:
        UserError: An image is of an unknown type, shape or range, or a folder or pattern holds no image.
    """
    if isinstance(images, list | tuple):
        several: list[Source] = []
        for image in images:
            found = to_sources(image, bgr=bgr)
            several += found if isinstance(found, list) else [found]
        return several
    if isinstance(images, str | os.PathLike):
        name = str(images)
        if "://" in name:
            raise UserError(f"{name}: an image must be a file on this machine; download it first.")
        return list[Source](expand([name])) if names_several(name) else Path(name)
    return to_rgb(images, bgr=bgr)
