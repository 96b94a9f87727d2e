"""Compares the images of a COCO file with the sizes that it gives them, before the first one is used."""

from collections.abc import Sequence
from pathlib import Path

from mbv2kit.data.sources.coco.reading import CocoImage
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import Head, read_heads
from mbv2kit.imaging.orientation import is_sideways


def check_sizes(file: Path, folder: Path, images: Sequence[CocoImage]) -> None:
    """Gives each image the size of its file, if the COCO file gives it none, and its orientation.

    The orientation is that of the image if its stored pixels were annotated, which the size tells.

    Args:
        file: The COCO file, for messages.
        folder: The folder of the images.
        images: The images.

    Raises:
        UserError: An image cannot be read, or it has another size, both upright and as stored.
    """
    heads = read_heads([folder / image.name for image in images])
    others = []
    for image, head in zip(images, heads, strict=True):
        if image.size is None:
            image.size = head.upright
        if image.size == head.upright:
            continue
        if image.size == head.stored and is_sideways(head.orientation):
            image.orientation = head.orientation
        else:
            others.append((image, head))
    if others:
        raise _other_size(file, folder, *others[0], len(others) - 1)


def _other_size(file: Path, folder: Path, image: CocoImage, head: Head, more: int) -> UserError:
    assert image.size is not None
    also = f" (and so for {more} more images)" if more else ""
    return UserError(
        f"{folder / image.name}: the image is {head.upright[1]} x {head.upright[0]} pixels, but {file.name} says "
        f"{image.size[1]} x {image.size[0]}{also}; use the image that was annotated."
    )
