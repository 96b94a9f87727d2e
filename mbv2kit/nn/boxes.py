"""Pure functions on boxes: anchors, coding, overlap, matching.

In shapes, A is the number of anchors and N the number of boxes. Boxes are ``xyxy``. Anchors lie on the unit square, so
that they depend only on the grids of the feature maps.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from mbv2kit.errors import UserError

AnchorPreset = Literal["tf", "uniform"]
ANCHOR_PRESETS: tuple[AnchorPreset, ...] = ("tf", "uniform")
# (width, height) of a cell's anchors for each map, as fractions of the image's short side.
Cells = Sequence[Sequence[tuple[float, float]]]
# Aspect ratios (width / height) of the anchors of a cell, in order.
RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)

# Variances of SSD's coder: centers are scaled by 10, logarithms of the sides by 5.
CODE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# Rounding may leave a box without width or height, and logarithms need a side above zero.
_SMALLEST_SIDE = 1e-6


def anchor_shapes(
    levels: int, preset: AnchorPreset, min_scale: float, max_scale: float
) -> list[list[tuple[float, float]]]:
    """Returns the (width, height) of a cell's anchors for each level, as fractions of the image's short side.

    The scales grow linearly from ``min_scale`` to ``max_scale``. Each level has the ratios 1, 2, 1/2, 3, 1/3 and a
    square between its scale and the next, six anchors in all. ``tf`` gives the first level only three small anchors,
    as TensorFlow's SSD on MobileNets does; ``uniform`` gives it six too.

    Raises:
        UserError: The scales are not in order within (0, 1].
    """
    _check_scales(min_scale, max_scale)
    step = (max_scale - min_scale) / max(1, levels - 1)
    scales = [min_scale + step * level for level in range(levels)] + [1.0]
    shapes = []
    for level in range(levels):
        sized = [*((scales[level], ratio) for ratio in RATIOS), (sqrt(scales[level] * scales[level + 1]), 1.0)]
        if preset == "tf" and level == 0:
            sized = [(scales[0] / 2, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        shapes.append(_with_ratios(sized))
    return shapes


def default_box_shapes(
    counts: Sequence[int], first_scale: float, min_scale: float, max_scale: float
) -> list[list[tuple[float, float]]]:
    """Returns the shapes of the default boxes of the original SSD (sections 2.2 and 3.1), as :func:`anchor_shapes`.

    The first level has its own scale; those of the others grow linearly from ``min_scale`` to ``max_scale``. A level
    of n anchors has the first n - 1 of the ratios 1, 2, 1/2, 3, 1/3 and a square between its scale and the next. The
    scale after the last level is one step larger than ``max_scale``.

    Args:
        counts: Number of anchors in a cell, 4 or 6, for each of at least three levels.
        first_scale: Scale of the first level, as a fraction of the image's short side.
        min_scale: Scale of the second level.
        max_scale: Scale of the last level.

    Raises:
        UserError: The scales are not in order within (0, 1].
    """
    _check_scales(min_scale, max_scale)
    if not 0 < first_scale <= min_scale:
        raise UserError(f"first_scale must be above 0 and at most min_scale, which is {min_scale}, got {first_scale}.")
    step = (max_scale - min_scale) / (len(counts) - 2)
    scales = [first_scale, *(min_scale + step * level for level in range(len(counts)))]
    return [
        _with_ratios([*((scale, ratio) for ratio in RATIOS[: count - 1]), (sqrt(scale * following), 1.0)])
        for count, (scale, following) in zip(counts, pairwise(scales), strict=True)
    ]


def _check_scales(min_scale: float, max_scale: float) -> None:
    if not 0 < min_scale <= max_scale <= 1:
        raise UserError(f"min_scale and max_scale must be in order within (0, 1], got {min_scale} and {max_scale}.")


def _with_ratios(sized: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Converts (side of the square of the same area, aspect ratio) to (width, height)."""
    return [(size * sqrt(ratio), size / sqrt(ratio)) for size, ratio in sized]


def make_anchors(
    grids: Sequence[tuple[int, int]], shapes: Sequence[Sequence[tuple[float, float]]], image: tuple[int, int]
) -> Tensor:
    """Places anchors on grids: one set of ``shapes`` around the center of each cell.

    Args:
        grids: (height, width) of each level's feature map.
        shapes: (width, height) of a cell's anchors for each level, as fractions of the short side.
        image: Height and width in any unit; only their ratio matters.

    Returns:
        ``(A, 4)`` float32 ``xyxy`` on the unit square, in order of level, row, column, shape. Anchors at the border
        extend beyond it.
    """
    short = min(image)
    anchors = []
    for (rows, columns), cell in zip(grids, shapes, strict=True):
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        centers = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        half_sizes = torch.tensor(cell) * torch.tensor([short / image[1], short / image[0]]) / 2
        anchors.append(torch.cat([centers - half_sizes, centers + half_sizes], dim=-1).reshape(-1, 4))
    return torch.cat(anchors).float()


def covered_pixels(
    grids: Sequence[tuple[int, int]], shapes: Sequence[Sequence[tuple[float, float]]], steps: Sequence[float | None]
) -> Tensor:
    """Returns how many pixels the cells of each anchor's level cover at fixed steps.

    Args:
        grids: (height, width) of each level's feature map.
        shapes: As for :func:`make_anchors`.
        steps: Pixels between the cells of each level; None for a level whose cells share the image evenly.

    Returns:
        ``(A, 2)`` float32, width and height; 0 for those of an even level.
    """
    rows = [
        torch.tensor([columns, rows]).mul(step or 0.0).repeat(rows * columns * len(cell), 1)
        for (rows, columns), cell, step in zip(grids, shapes, steps, strict=True)
    ]
    return torch.cat(rows).float()


def move_to_steps(anchors: Tensor, covered: Tensor, size: tuple[int, int]) -> Tensor:
    """Moves anchors that share the image evenly to where fixed steps place them.

    Args:
        anchors: ``(A, 4)`` on the unit square.
        covered: As :func:`covered_pixels` returns it.
        size: (height, width) of the image in pixels.

    Returns:
        ``(A, 4)``; a center that would lie beyond the image lies on its border.
    """
    centers, sizes = _center_size(anchors)
    shares = covered / covered.new_tensor([size[1], size[0]])
    centers = (centers * torch.where(covered > 0, shares, 1.0)).clamp(max=1.0)
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=-1)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Encodes boxes as offsets from anchors, ``(..., 4)`` each, in the same unit: what SSD learns to predict."""
    box_centers, box_sizes = _center_size(boxes)
    anchor_centers, anchor_sizes = _center_size(anchors)
    shifts = (box_centers - anchor_centers) / anchor_sizes
    stretches = torch.log(box_sizes.clamp(min=_SMALLEST_SIDE) / anchor_sizes)
    return torch.cat([shifts, stretches], dim=-1) * boxes.new_tensor(CODE_WEIGHTS)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Decodes offsets from anchors into boxes; the inverse of :func:`encode`."""
    codes = codes / codes.new_tensor(CODE_WEIGHTS)
    anchor_centers, anchor_sizes = _center_size(anchors)
    centers = codes[..., :2] * anchor_sizes + anchor_centers
    # An untrained network may predict any size; the limit, a factor of about 1000, keeps it from overflowing.
    half_sizes = torch.exp(codes[..., 2:].clamp(max=7.0)) * anchor_sizes / 2
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Returns the area of ``(..., 4)`` boxes; 0 for a box that ends before it starts."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the shared area of each pair, ``(N, 4)`` and ``(M, 4) -> (N, M)``."""
    top_left = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the intersection over union of each pair, ``(N, 4)`` and ``(M, 4) -> (N, M)`` in 0..1."""
    shared = intersection(boxes, others)
    union = area(boxes)[:, None] + area(others)[None, :] - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def match(boxes: Tensor, anchors: Tensor, threshold: float = 0.5) -> Tensor:
    """Assigns to each anchor the box that it learns to predict.

    An anchor gets the box with which its IoU is highest, if that is at least ``threshold``. Then every box gets the
    anchor with which its IoU is highest, however low, so that no box goes untrained. If two boxes claim one anchor,
    the pair with the higher IoU wins, and the other box gets its next best anchor.

    Args:
        boxes: ``(N, 4)``.
        anchors: ``(A, 4)`` in the same unit.
        threshold: IoU in 0..1.

    Returns:
        ``(A,)`` int64: index of the box, or -1 for background.
    """
    matched = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    if not len(boxes):
        return matched
    overlaps = iou(boxes, anchors)
    best, box = overlaps.max(dim=0)
    matched[best >= threshold] = box[best >= threshold]
    for _ in range(min(len(boxes), len(anchors))):
        index = int(overlaps.argmax())
        forced_box, forced_anchor = divmod(index, len(anchors))
        matched[forced_anchor] = forced_box
        overlaps[forced_box] = -1.0
        overlaps[:, forced_anchor] = -1.0
    return matched
