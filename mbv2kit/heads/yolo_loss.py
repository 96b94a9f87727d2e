"""YOLOv2's box codes, the assignment of objects to predictions, and the loss (YOLO9000, section 2).

Boxes are ``xyxy`` on the unit square. In shapes, B is the number of images, H and W are the cells of the grid, A the
anchors of a cell and N the objects. All predictions of an image in one row have the order of ``(H, W, A)``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mbv2kit.heads.objects import in_crowd, objects_in
from mbv2kit.nn import boxes as bx

# The scales of the authors' configuration.
OBJECT_SCALE = 5.0
# A prediction with this IoU with an object is not trained as background, even if another one is responsible for it.
FOUND_IOU = 0.6
# Logarithms need a side above zero.
_SMALLEST_SIDE = 1e-6


def decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """Decodes boxes: the sigmoid gives the center within the cell, the exponential stretches the anchor.

    Args:
        codes: ``(..., H, W, A, 4)``: t_x, t_y, t_w and t_h of the paper.
        anchors: ``(A, 2)`` width and height.

    Returns:
        ``(..., H, W, A, 4)``.
    """
    rows, columns = codes.shape[-4:-2]
    y, x = torch.meshgrid(
        torch.arange(rows, device=codes.device), torch.arange(columns, device=codes.device), indexing="ij"
    )
    cells = torch.stack([x, y], dim=-1)[:, :, None]
    center_x, center_y = (codes[..., :2].sigmoid() + cells).unbind(dim=-1)
    centers = torch.stack([center_x / columns, center_y / rows], dim=-1)
    # An untrained network may predict any size; the limit, a factor of about 1000, keeps it from overflowing.
    half_sizes = anchors * codes[..., 2:].clamp(max=7.0).exp() / 2
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)


def encode_boxes(boxes: Tensor, grid: tuple[int, int], anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the prediction that is responsible for each object, and its target.

    It is in the cell of the object's center, with the anchor whose IoU with the box is highest on a common center.

    Args:
        boxes: ``(..., N, 4)``.
        grid: Number of rows and columns.
        anchors: ``(A, 2)`` width and height.

    Returns:
        ``(..., N)`` int64, indices into a row of all predictions, and ``(..., N, 4)`` targets: the sigmoids of t_x and
        t_y, then t_w and t_h.
    """
    rows, columns = grid
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=_SMALLEST_SIDE)
    x, y = ((boxes[..., :2] + boxes[..., 2:]) / 2).unbind(dim=-1)
    x, y = x * columns, y * rows
    # A center on the right or bottom border belongs to the last cell.
    column, row = x.floor().clamp(0, columns - 1), y.floor().clamp(0, rows - 1)
    anchor = bx.iou(_on_origin(sides), _on_origin(anchors)).argmax(dim=-1)
    place = (row * columns + column).long() * len(anchors) + anchor
    shifts = torch.stack([x - column, y - row], dim=-1).clamp(0, 1)
    return place, torch.cat([shifts, (sides / anchors[anchor]).log()], dim=-1)


def yolo_loss(raw: Mapping[str, Tensor], targets: Mapping[str, Any]) -> dict[str, Tensor]:
    """Computes the sum of YOLOv2's loss over a batch, divided by the number of images.

    Squared errors are halved, so that the gradients are those of the authors' program. As there, if two objects share a
    prediction, it learns the later one.

    Args:
        raw: Raw tensors of :class:`~mbv2kit.heads.yolo_v2.YOLOv2`.
        targets: ``size``, ``boxes``, ``labels`` and ``crowd`` of a head's targets.

    Returns:
        ``localization``, ``objectness``, ``background`` and ``classification``.
    """
    codes, anchors = raw["box_codes"].float(), raw["anchors"].float()
    images, rows, columns = codes.shape[:3]
    predicted = decode_boxes(codes.detach(), anchors).flatten(1, 3)
    codes = codes.flatten(1, 3)
    objectness = raw["objectness_logits"].float().sigmoid().flatten(1)
    logits = raw["class_logits"].float().flatten(1, 3)
    found = objects_in(targets)
    place, wanted = encode_boxes(found.boxes, (rows, columns), anchors)
    learns = found.counted & ~_is_followed(place, found.counted)
    # The column after the last prediction takes what is no object.
    responsible = torch.zeros(images, codes.shape[1] + 1, dtype=torch.bool, device=codes.device)
    responsible.scatter_(1, place.masked_fill(~found.counted, codes.shape[1]), True)
    shared = bx.intersection(found.boxes, predicted)
    close = bx.share_of_union(shared, found.boxes, predicted) >= FOUND_IOU
    near = (close & found.counted[..., None]).any(dim=1)
    background = ~(near | in_crowd(predicted, shared, found.crowd) | responsible[:, :-1])

    own = place[..., None].expand(-1, -1, 4)
    own_codes = codes.gather(1, own)
    coded = torch.cat([own_codes[..., :2].sigmoid(), own_codes[..., 2:]], dim=-1)
    # The same error is worse in a small box.
    weights = 2 - bx.area(found.boxes)[..., None]
    overlaps = bx.iou(predicted.gather(1, own), found.boxes).diagonal(dim1=1, dim2=2)
    own_logits = logits.gather(1, place[..., None].expand(-1, -1, logits.shape[2]))
    missed = OBJECT_SCALE * (objectness.gather(1, place) - overlaps).square()
    sums = {
        "localization": (weights * (coded - wanted).square()).masked_fill(~learns[..., None], 0.0).sum() / 2,
        "objectness": missed.masked_fill(~learns, 0.0).sum() / 2,
        "background": objectness.square().masked_fill(~background, 0.0).sum() / 2,
        "classification": F.cross_entropy(own_logits.transpose(1, 2), found.labels, reduction="none")
        .masked_fill(~learns, 0.0)
        .sum(),
    }
    return {name: value / images for name, value in sums.items()}


def _is_followed(place: Tensor, counted: Tensor) -> Tensor:
    """Returns ``(B, N)`` bool: which objects have a later one at the same place."""
    same = (place[:, :, None] == place[:, None, :]) & counted[:, None, :]
    return same.triu(diagonal=1).any(dim=2)


def _on_origin(sides: Tensor) -> Tensor:
    """Converts ``(..., 2)`` width and height to ``(..., 4)`` boxes with a common corner."""
    return torch.cat([torch.zeros_like(sides), sides], dim=-1)
