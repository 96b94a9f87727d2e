"""Outlines of objects in a COCO file: how they are read, checked and drawn.

COCO's library trusts its input: it fails or crashes on outlines far outside an image and on run lengths that do not
fit. Everything is checked before it is called.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mbv2kit.data.table import Outline
from mbv2kit.structures import IGNORE

Ring = NDArray[np.float64]

# Polygons are filled along their edges, in memory that grows with the length of these.
_LONGEST_EDGES = 1_000_000
_FARTHEST = 1_000_000
# A number of run lengths is below 2 ** 32, so at most seven characters of five bits.
_LONGEST_NUMBER = 7


class BrokenOutlineError(ValueError):
    """The outline cannot be drawn; the message says why and fits into a sentence."""


def compact(segmentation: Any) -> Any:
    """Replaces lists of coordinates by arrays, which take a fraction of the memory; leaves anything else as it is.

    A ring is a list of numbers ``x1, y1, x2, y2, ...`` or of pairs ``[x, y]``; an outline is a list of rings, or one.
    """
    if not isinstance(segmentation, list):
        return segmentation
    # The list is one ring if it starts with a number, or is nothing but pairs.
    is_ring = bool(segmentation) and (not isinstance(segmentation[0], list) or all(map(_is_pair, segmentation)))
    rings = [segmentation] if is_ring else segmentation
    try:
        arrays = [np.array(ring, dtype=np.float64) for ring in rings]
    except (TypeError, ValueError, OverflowError):
        return segmentation
    fits = all(array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 2) for array in arrays)
    return [array.reshape(-1) for array in arrays] if fits else segmentation


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and not isinstance(value[0], list)


def read_outline(segmentation: Any, height: int, width: int) -> Outline | None:
    """Checks the ``segmentation`` of an annotation and returns its outline.

    Args:
        segmentation: As :func:`compact` returns it.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        The outline; None if there is none: nothing, an empty list, or only points and lines.

    Raises:
        BrokenOutlineError: It cannot be drawn.
    """
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        return Outline(rle=_read_run_lengths(segmentation, height, width)) if segmentation else None
    if not isinstance(segmentation, list) or not all(isinstance(ring, np.ndarray) for ring in segmentation):
        raise BrokenOutlineError("it holds neither polygons, as lists of numbers, nor run lengths")
    # Two points have no area, and COCO's library treats a list of four numbers as a box.
    rings = tuple(_check_ring(ring) for ring in segmentation if len(ring) >= 6)
    return Outline(rings=rings) if rings else None


def _check_ring(ring: Ring) -> Ring:
    if len(ring) % 2:
        raise BrokenOutlineError(f"a polygon has an odd number of coordinates ({len(ring)})")
    if not np.isfinite(ring).all():
        raise BrokenOutlineError("a coordinate is not finite")
    points = ring.reshape(-1, 2)
    if np.abs(points).max() > _FARTHEST:
        raise BrokenOutlineError(f"a coordinate is {ring[np.abs(ring).argmax()]:g}")
    edges = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1)
    if edges.sum() + len(points) > _LONGEST_EDGES:
        raise BrokenOutlineError(f"a polygon of {len(points)} points is {edges.sum():.0f} pixels long")
    return ring


def _read_run_lengths(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or size != [height, width]:
        raise BrokenOutlineError(f"its run lengths have the size {str(size)[:50]}")
    if isinstance(counts, str) and counts.isascii():
        runs = counts.encode()
        _check_sum(_decode_counts(runs), height * width)
        return runs
    if not isinstance(counts, list) or not all(type(count) in (int, float) for count in counts):
        raise BrokenOutlineError("its run lengths are neither a text as COCO writes them nor a list of whole numbers")
    try:
        numbers = np.array([int(count) for count in counts], dtype=np.int64)
    except (OverflowError, ValueError):
        raise BrokenOutlineError("a run length is out of range") from None
    if numbers.tolist() != counts:
        raise BrokenOutlineError("a run length is no whole number")
    _check_sum(numbers, height * width)
    return bytes(coco_mask.frPyObjects({"size": [height, width], "counts": numbers.tolist()}, height, width)["counts"])


def _check_sum(numbers: NDArray[np.int64], pixels: int) -> None:
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) > pixels or numbers.sum() != pixels:
        raise BrokenOutlineError(f"its run lengths do not add up to the {pixels} pixels of the image")


def _decode_counts(runs: bytes) -> NDArray[np.int64]:
    """Returns the run lengths of COCO's text form.

    Each character holds five bits of a number, the lowest first, and whether more follow. The last sign bit extends.
    From the fourth number on, the one two places before is added.
    """
    characters = np.frombuffer(runs, dtype=np.uint8).astype(np.int64) - 48
    if not len(characters) or characters.min() < 0 or characters.max() > 63 or characters[-1] & 32:
        raise BrokenOutlineError("its run lengths are not a text as COCO writes them")
    last = np.flatnonzero((characters & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise BrokenOutlineError("a run length is out of range")
    places = np.arange(len(characters)) - np.repeat(first, lengths)
    numbers = np.add.reduceat((characters & 31) << (5 * places), first)
    numbers -= np.where(characters[last] & 16, np.int64(1) << (5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def draw_mask(
    outlines: Sequence[Outline], classes: NDArray[np.int64], crowd: NDArray[np.bool_], height: int, width: int
) -> NDArray[np.uint8]:
    """Draws objects into one class mask: first crowds, as 255, then objects from the largest to the smallest.

    Args:
        outlines: Outlines of N objects.
        classes: ``(N,)`` class of each object, 1..254.
        crowd: ``(N,)`` whether the object is a crowd region.
        height: Height of the mask in pixels.
        width: Width of the mask in pixels.

    Returns:
        ``(height, width)`` uint8; 0 outside all objects.
    """
    runs = [_run_lengths(outline, height, width) for outline in outlines]
    areas = np.array([coco_mask.area(run) for run in runs], dtype=np.int64)
    mask = np.zeros((height, width), dtype=np.uint8)
    for item in np.lexsort((-areas, ~crowd)):
        mask[coco_mask.decode(runs[item]).astype(bool)] = IGNORE if crowd[item] else classes[item]
    return mask


def area_of(outline: Outline, height: int, width: int) -> int:
    """Returns the number of pixels that an outline covers in its image."""
    return int(coco_mask.area(_run_lengths(outline, height, width)))


def _run_lengths(outline: Outline, height: int, width: int) -> Any:
    if outline.rle:
        return {"size": [height, width], "counts": outline.rle}
    rings = [ring.tolist() for ring in outline.rings]
    return coco_mask.merge(coco_mask.frPyObjects(rings, height, width))
