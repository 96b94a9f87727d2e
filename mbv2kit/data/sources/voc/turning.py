"""Decides whether boxes were drawn on images as their files store them, or upright, and turns the former."""

import logging
from collections.abc import Sequence

from mbv2kit.data.sources.voc.annotation import Annotation
from mbv2kit.errors import UserError, first_few
from mbv2kit.imaging.images import Head
from mbv2kit.imaging.orientation import UPRIGHT, turn_boxes
from mbv2kit.structures import Boxes

logger = logging.getLogger(__name__)


def upright_boxes(files: Sequence[str], heads: Sequence[Head], annotations: Sequence[Annotation]) -> list[Boxes]:
    """Returns the boxes of each image in pixels of the upright image.

    Where the size of an annotation is that of the stored image and not that of the upright one, its boxes are turned.
    Where it could be either, the other images decide: if all of them have boxes of stored images, so has this one.

    Args:
        files: Name of each image, for messages.
        heads: Size and orientation of each image.
        annotations: What is known of each image.

    Raises:
        UserError: An annotation gives its image another size.
    """
    stored, unclear, others = [], [], []
    upright = 0
    for index, (head, annotation) in enumerate(zip(heads, annotations, strict=True)):
        if not len(annotation.boxes):
            continue
        is_stored, is_upright = (_agree(annotation.size, size) for size in (head.stored, head.upright))
        if not is_stored and not is_upright:
            others.append(index)
        elif head.orientation != UPRIGHT:
            if is_stored and is_upright:
                unclear.append(index)
            elif is_stored:
                stored.append(index)
            else:
                upright += 1
    if others:
        raise _other_size(files, heads, annotations, others)
    if stored and not upright:
        stored, unclear = sorted(stored + unclear), []
    _report(files, stored, unclear)
    turned = set(stored)
    return [
        turn_boxes(annotation.boxes, head.stored, head.orientation) if index in turned else annotation.boxes
        for index, (head, annotation) in enumerate(zip(heads, annotations, strict=True))
    ]


def _agree(given: tuple[int, int] | None, size: tuple[int, int]) -> bool:
    """Tells whether a size may be that of an image; tools that resize round by a pixel."""
    return given is None or all(abs(side - other) <= 1 for side, other in zip(given, size, strict=True))


def _other_size(
    files: Sequence[str], heads: Sequence[Head], annotations: Sequence[Annotation], others: Sequence[int]
) -> UserError:
    head, annotation = heads[others[0]], annotations[others[0]]
    assert annotation.size is not None
    more = f" (and so in {len(others) - 1} more files)" if len(others) > 1 else ""
    return UserError(
        f"{annotation.path}: <size> is {annotation.size[1]} x {annotation.size[0]} pixels, but the image "
        f"{files[others[0]]} has {head.upright[1]} x {head.upright[0]}{more}, so the boxes may not fit; take "
        "the images that were annotated, or write 0 into <size> if the boxes are right."
    )


def _report(files: Sequence[str], stored: Sequence[int], unclear: Sequence[int]) -> None:
    if stored:
        logger.info(
            "Turned the boxes of %d images, which were annotated as their files store them: %s",
            len(stored),
            first_few(files[index] for index in stored),
        )
    if unclear:
        logger.info(
            "%d images are turned by their EXIF, and <size> does not tell whether their boxes are too; they are taken "
            "as those of upright images: %s",
            len(unclear),
            first_few(files[index] for index in unclear),
        )
