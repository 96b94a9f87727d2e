"""Boxes as pure functions: anchors, coding, overlap, matching.

Shapes in names: A anchors, N boxes. Boxes are ``xyxy``; anchors live on the unit square, so that they depend on the
grids of the feature maps alone.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from mbv2kit.errors import UserError

AnchorPreset = Literal["tf", "uniform"]
# Width over height of the anchors of a cell, in their order.
RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)

# Variances of SSD's coder: centers are scaled by 10, logarithms of the sides by 5.
CODE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# Two boxes of the same place may differ by rounding; logarithms need a side above zero.
_SMALLEST_SIDE = 1e-6


def anchor_shapes(
    levels: int, preset: AnchorPreset, min_scale: float, max_scale: float
) -> list[list[tuple[float, float]]]:
    """Returns, for each level, the (width, height) of the anchors of one cell, as shares of the image's short side.

    The scales run linearly from ``min_scale`` to ``max_scale``; each level has the ratios 1, 2, 1/2, 3, 1/3 and one
    square between its scale and the next, six in all. ``tf`` gives the first level only three small anchors, as
    TensorFlow's SSD on MobileNets does; ``uniform`` gives it six as well.

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

    The first level has a scale of its own; those of the others run linearly from ``min_scale`` to ``max_scale``. A
    level of n anchors has the first n - 1 of the ratios 1, 2, 1/2, 3, 1/3 and one square between its scale and the
    next. Behind the last level the scales go on by one more step.

    Args:
        counts: Number of anchors of a cell at each of at least three levels: 4 or 6.
        first_scale: Of the first level, as a share of the image's short side.
        min_scale: Of the second level.
        max_scale: Of the last level.

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
    """Turns (side of the square of the same area, width over height) into (width, height)."""
    return [(size * sqrt(ratio), size / sqrt(ratio)) for size, ratio in sized]


def make_anchors(
    grids: Sequence[tuple[int, int]], shapes: Sequence[Sequence[tuple[float, float]]], image: tuple[int, int]
) -> Tensor:
    """Lays anchors on grids: one set of ``shapes`` around the center of each cell.

    Args:
        grids: (height, width) of each level's feature map.
        shapes: For each level the (width, height) of the anchors of a cell, as shares of the short side.
        image: Height and width in any unit; only their ratio counts.

    Returns:
        ``(A, 4)`` float32 ``xyxy`` on the unit square, by level, row, column, shape. Those at the border reach over it.
    """
    short = min(image)
    anchors = []
    for (rows, columns), cell in zip(grids, shapes, strict=True):
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        centers = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        fp16 = torch.tensor(cell) * torch.tensor([short / image[1], short / image[0]]) / 2
        anchors.append(torch.cat([centers - fp16, centers + fp16], dim=-1).reshape(-1, 4))
    return torch.cat(anchors).float()


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Writes boxes as offsets from anchors (``(..., 4)`` each, in the same unit): what SSD learns to predict."""
    box_centers, box_sizes = _center_size(boxes)
    anchor_centers, anchor_sizes = _center_size(anchors)
    shifts = (box_centers - anchor_centers) / anchor_sizes
    stretches = torch.log(box_sizes.clamp(min=_SMALLEST_SIDE) / anchor_sizes)
    return torch.cat([shifts, stretches], dim=-1) * boxes.new_tensor(CODE_WEIGHTS)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Reads offsets from anchors back into boxes; the inverse of :func:`encode`."""
    codes = codes / codes.new_tensor(CODE_WEIGHTS)
    anchor_centers, anchor_sizes = _center_size(anchors)
    centers = codes[..., :2] * anchor_sizes + anchor_centers
    # An untrained network may ask for any size; beyond a factor of 1000 it would only overflow.
    fp16 = torch.exp(codes[..., 2:].clamp(max=7.0)) * anchor_sizes / 2
    return torch.cat([centers - fp16, centers + fp16], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Returns the area of ``(..., 4)`` boxes; 0 where a box is turned inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the shared area of every pair, ``(N, 4)`` and ``(M, 4) -> (N, M)``."""
    top_left = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns intersection over union of every pair, ``(N, 4)`` and ``(M, 4) -> (N, M)`` in 0..1."""
    shared = intersection(boxes, others)
    union = area(boxes)[:, None] + area(others)[None, :] - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def match(boxes: Tensor, anchors: Tensor, threshold: float = 0.5) -> Tensor:
    """Gives each anchor the box it shall predict.

    An anchor takes the box it overlaps most, if by at least ``threshold``. Then every box gets the anchor that
    overlaps it most, whatever the overlap, so that none goes untrained; where two boxes claim one anchor, the pair of
    higher overlap is served first and the other box takes its next best.

    Args:
        boxes: ``(N, 4)``.
        anchors: ``(A, 4)`` in the same unit.
        threshold: IoU in 0..1.

    Returns:
        ``(A,)`` int64: index of the box, -1 for background.
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
        if overlaps[forced_box, forced_anchor] < 0:
            break
        matched[forced_anchor] = forced_box
        overlaps[forced_box] = -1.0
        overlaps[:, forced_anchor] = -1.0
    return matched
