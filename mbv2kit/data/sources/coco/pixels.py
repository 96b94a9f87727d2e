"""Finds outlines of a COCO file that draw nothing: fractions in place of pixels, points and lines, places outside."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.sources.coco.outlines import area_of
from mbv2kit.data.table import Outline


def without_pixels(outlines: Sequence[Outline], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the indices of the outlines that are no larger than a pixel, or cover none of their image.

    Args:
        outlines: N outlines.
        sizes: ``(N, 2)`` height and width of their images.
    """
    surely, tiny = _judge_rings(outlines, sizes)
    doubtful = np.flatnonzero(~surely).tolist()
    found = [item for item in doubtful if tiny[item] or not area_of(outlines[item], *sizes[item].tolist())]
    return np.array(found, dtype=np.int64)


def _judge_rings(outlines: Sequence[Outline], sizes: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns which outlines surely cover pixels, and which are polygons no larger than a pixel; ``(N,)`` each.

    All rings at once take a hundredth of the time of drawing each.
    """
    rings = [ring for outline in outlines for ring in outline.rings]
    owners = np.repeat(np.arange(len(outlines)), [len(outline.rings) for outline in outlines])
    surely, large = np.zeros(len(outlines), dtype=bool), np.zeros(len(outlines), dtype=bool)
    if not rings:
        return surely, large
    points = np.concatenate(rings).reshape(-1, 2)
    starts = np.cumsum([0, *(len(ring) // 2 for ring in rings)])
    low, high = (each.reduceat(points, starts[:-1]) for each in (np.minimum, np.maximum))
    following = np.roll(points, -1, axis=0)
    following[starts[1:] - 1] = points[starts[:-1]]
    areas = np.abs(np.add.reduceat(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0], starts[:-1])) / 2
    sides = high - low
    within = np.minimum(high, sizes[owners, ::-1]) - np.maximum(low, 0)
    # A convex polygon with more area than the border of its box is long is wider than a pixel.
    surely[owners[(within.min(axis=1) > 1) & (areas > 2 * sides.sum(axis=1))]] = True
    large[owners[sides.max(axis=1) > 1]] = True
    has_rings = np.zeros(len(outlines), dtype=bool)
    has_rings[owners] = True
    return surely, has_rings & ~large
