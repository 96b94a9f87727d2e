"""Pure functions on boxes: anchors, coding, overlap, matching.

In shapes, B is the number of images, A that of anchors and N that of boxes. Boxes are ``xyxy``. Anchors lie on the unit
square, so that they depend only on the grids of the feature maps. Nothing here asks the device for a value, so that the
host can go on queueing work.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mbv2kit.errors import UserError

AnchorPreset = Literal["tf", "uniform"]
ANCHOR_PRESETS: tuple[AnchorPreset, ...] = ("tf", "uniform")
# (width, height) of a cell's anchors for each map, as fractions of the image's short side.
Cells = Sequence[Sequence[tuple[float, float]]]
# Aspect ratios (width / height) of the anchors of a cell, in order.
RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)

# Variances of SSD's coder: centers are scaled by 10, logarithms of the sides by 5.
_CENTER_WEIGHT, _SIDE_WEIGHT = 10.0, 5.0
CODE_WEIGHTS = (_CENTER_WEIGHT, _CENTER_WEIGHT, _SIDE_WEIGHT, _SIDE_WEIGHT)
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
    shares = torch.stack([covered[:, 0] / size[1], covered[:, 1] / size[0]], dim=1)
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
    return torch.cat([shifts * _CENTER_WEIGHT, stretches * _SIDE_WEIGHT], dim=-1)


def decode(codes: Tensor, anchors: Tensor) -> Tensor:
    """Decodes offsets from anchors into boxes; the inverse of :func:`encode`."""
    anchor_centers, anchor_sizes = _center_size(anchors)
    centers = codes[..., :2] / _CENTER_WEIGHT * anchor_sizes + anchor_centers
    # An untrained network may predict any size; the limit, a factor of about 1000, keeps it from overflowing.
    half_sizes = torch.exp((codes[..., 2:] / _SIDE_WEIGHT).clamp(max=7.0)) * anchor_sizes / 2
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Returns the area of ``(..., 4)`` boxes; 0 for a box that ends before it starts."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the shared area of each pair, ``(..., N, 4)`` and ``(..., M, 4) -> (..., N, M)``."""
    top_left = torch.maximum(boxes[..., :, None, :2], others[..., None, :, :2])
    bottom_right = torch.minimum(boxes[..., :, None, 2:], others[..., None, :, 2:])
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the intersection over union of each pair, ``(..., N, 4)`` and ``(..., M, 4) -> (..., N, M)`` in 0..1."""
    return share_of_union(intersection(boxes, others), boxes, others)


def share_of_union(shared: Tensor, boxes: Tensor, others: Tensor) -> Tensor:
    """Returns :func:`iou` of boxes whose :func:`intersection` is known."""
    union = area(boxes)[..., :, None] + area(others)[..., None, :] - shared
    return shared / union.clamp(min=torch.finfo(shared.dtype).tiny)


def to_unit(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns ``(..., 4)`` boxes in pixels of an image of that height and width on the unit square."""
    height, width = size
    left, top, right, bottom = boxes.unbind(dim=-1)
    return torch.stack([left / width, top / height, right / width, bottom / height], dim=-1)


def match(overlaps: Sequence[Tensor], threshold: float = 0.5) -> Tensor:
    """Assigns to each anchor of each image the box that it learns to predict.

    An anchor gets the box with which its IoU is highest, if that is at least ``threshold``. Then every box gets the
    anchor with which its IoU is highest, however low, so that no box goes untrained. If two boxes claim one anchor,
    the pair with the higher IoU wins, and the other box gets its next best anchor.

    Args:
        overlaps: ``(N, A)`` float32 for each image: the IoU of its boxes with the anchors, -1 for a box that does not
            count.
        threshold: IoU in 0..1.

    Returns:
        ``(B, A)`` int64: index of the box, or -1 for background.
    """
    sizes = [len(each) for each in overlaps]
    images, most, total = len(sizes), max(sizes), overlaps[0].shape[1]
    # The column after the last anchor takes the boxes that do not count.
    matched = torch.full((images, total + 1), -1, dtype=torch.int64, device=overlaps[0].device)
    if not most:
        return matched[:, :-1]
    best, box = pad_sequence(list(overlaps), batch_first=True, padding_value=-1.0).max(dim=1)
    matched[:, :-1] = torch.where(best >= threshold, box, -1)
    # A box gets one of as many anchors as there are boxes at most: the others of its image take one each.
    value, anchor = _highest(torch.cat(list(overlaps)), min(most, total))
    value = pad_sequence(list(torch.split(value, sizes)), batch_first=True, padding_value=-1.0)
    anchor = pad_sequence(list(torch.split(anchor, sizes)), batch_first=True)
    # As many rounds as there may be boxes: to ask whether one is left would make the host wait for the device.
    for _ in range(min(most, total)):
        of_box, place = value.max(dim=2)
        highest, forced = of_box.max(dim=1, keepdim=True)
        taken = anchor.gather(2, place[..., None])[..., 0].gather(1, forced)
        matched.scatter_(1, torch.where(highest >= 0, taken, total), forced)
        value.scatter_(1, forced[..., None].expand(-1, -1, value.shape[2]), -1.0)
        value.masked_fill_(anchor == taken[..., None], -1.0)
    return matched[:, :-1]


def _highest(overlaps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the ``count`` highest values of each row of float32, and their columns; of equal ones the first."""
    columns = torch.arange(overlaps.shape[1], device=overlaps.device)
    # The bits of floats from 0 on are in the order of the floats; -1 has the bits of a negative number.
    keys = overlaps.contiguous().view(torch.int32).long() * len(columns) + columns.flip(0)
    place = len(columns) - 1 - keys.topk(count, dim=1).values.remainder(len(columns))
    return overlaps.gather(1, place), place
