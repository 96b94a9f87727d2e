"""Finds anchors in the data: k-means over the shapes of boxes ("Dimension Clusters" in section 2 of YOLO9000)."""

import numpy as np
from numpy.typing import NDArray

from mbv2kit.heads.registry import Shapes

STARTS = 10
# Far more than k-means needs; each round but the last must improve the fit.
MOST_ROUNDS = 300
# More boxes change the result no more than another seed, and the 850,000 of COCO would take a minute.
MOST_SHAPES = 20_000


def cluster_shapes(shapes: Shapes, count: int, seed: int = 0) -> Shapes:
    """Finds the anchors that boxes of these shapes overlap most, by k-means with the distance 1 - IoU.

    The best of ten runs is returned. Each starts from boxes of the data that are far apart: the next one is drawn with
    a probability proportional to its distance from the previous ones (k-means++).

    Args:
        shapes: ``(N, 2)`` width and height of at least one box, all above 0, in any unit; a random subset is used if
            there are more than 20,000.
        count: Number of anchors, at least 1.
        seed: Seed of the random choices.

    Returns:
        ``(count, 2)`` width and height, the smallest area first; fewer if the boxes have fewer different shapes.
    """
    rng = np.random.default_rng(seed)
    if len(shapes) > MOST_SHAPES:
        shapes = rng.choice(shapes, MOST_SHAPES, replace=False)
    runs = [improve(shapes, _spread(shapes, count, rng)) for _ in range(STARTS)]
    best = max(runs, key=lambda anchors: mean_iou(shapes, anchors))
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def improve(shapes: Shapes, anchors: Shapes) -> Shapes:
    """Moves each anchor to the median of the boxes that overlap it most, as long as that improves the fit.

    The distance is not squared, so medians fit better than means (0.538 instead of 0.525 to 0.535 with 5 anchors on 929
    boxes of COCO), but they are not optimal: a round can make the fit worse. The result never fits worse than
    ``anchors``, by :func:`mean_iou`.

    Args:
        shapes: ``(N, 2)`` width and height of boxes.
        anchors: ``(K, 2)`` width and height to start from.

    Returns:
        ``(K, 2)``, in the order of ``anchors``.
    """
    best, best_fit = anchors, -1.0
    for _ in range(MOST_ROUNDS):
        overlaps = shape_iou(shapes, anchors)
        fit = float(overlaps.max(axis=1).mean())
        if fit <= best_fit:
            break
        best, best_fit = anchors, fit
        owner = overlaps.argmax(axis=1)
        members = [shapes[owner == index] for index in range(len(anchors))]
        # An anchor that is the best one of no box does not move.
        anchors = np.array(
            [np.median(own, axis=0) if len(own) else old for own, old in zip(members, anchors, strict=True)]
        )
    return best


def mean_iou(shapes: Shapes, anchors: Shapes) -> float:
    """Returns the mean over all boxes of the IoU with the best anchor, in 0..1 (Figure 2 of the paper)."""
    return float(shape_iou(shapes, anchors).max(axis=1).mean())


def shape_iou(shapes: Shapes, others: Shapes) -> NDArray[np.float64]:
    """Returns the IoU of each pair of boxes with a common center, ``(N, 2)`` and ``(M, 2) -> (N, M)`` in 0..1."""
    shared = np.minimum(shapes[:, None], others[None]).prod(axis=2)
    areas = shapes.prod(axis=1)[:, None] + others.prod(axis=1)[None]
    return np.asarray(shared / (areas - shared))


def _spread(shapes: Shapes, count: int, rng: np.random.Generator) -> Shapes:
    """Draws boxes that are far apart; fewer than ``count`` if there are no more different ones."""
    chosen = [shapes[rng.integers(len(shapes))]]
    while len(chosen) < count:
        distances = 1 - shape_iou(shapes, np.array(chosen)).max(axis=1)
        if not distances.any():
            break
        chosen.append(rng.choice(shapes, p=distances / distances.sum()))
    return np.array(chosen)
