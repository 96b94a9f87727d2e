"""YOLOv2's box codes, the assignment of objects to predictions, and the loss (YOLO9000, section 2).

Boxes are ``xyxy`` on the unit square. In shapes, H and W are the cells of the grid, A the anchors of a cell and N the
objects. All predictions of an image in one row have the order of ``(H, W, A)``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mbv2kit.heads.crowd import in_crowd
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
    centers = (codes[..., :2].sigmoid() + cells) / codes.new_tensor([columns, rows])
    # An untrained network may predict any size; the limit, a factor of about 1000, keeps it from overflowing.
    half_sizes = anchors * codes[..., 2:].clamp(max=7.0).exp() / 2
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=-1)


def encode_boxes(boxes: Tensor, grid: tuple[int, int], anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the prediction that is responsible for each object, and its target.

    It is in the cell of the object's center, with the anchor whose IoU with the box is highest on a common center.

    Args:
        boxes: ``(N, 4)``.
        grid: Number of rows and columns.
        anchors: ``(A, 2)`` width and height.

    Returns:
        ``(N,)`` int64, indices into a row of all predictions, and ``(N, 4)`` targets: the sigmoids of t_x and t_y, then
        t_w and t_h.
    """
    rows, columns = grid
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=_SMALLEST_SIDE)
    size = boxes.new_tensor([columns, rows])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 * size
    # A center on the right or bottom border belongs to the last cell.
    cells = torch.minimum(centers.floor().clamp(min=0), size - 1)
    anchor = bx.iou(_on_origin(sides), _on_origin(anchors)).argmax(dim=1)
    column, row = cells.long().unbind(dim=1)
    place = (row * columns + column) * len(anchors) + anchor
    return place, torch.cat([(centers - cells).clamp(0, 1), (sides / anchors[anchor]).log()], dim=1)


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
    height, width = targets["size"]
    unit = codes.new_tensor([width, height, width, height])
    predicted = decode_boxes(codes.detach(), anchors).flatten(1, 3)
    codes = codes.flatten(1, 3)
    objectness = raw["objectness_logits"].float().sigmoid().flatten(1)
    logits = raw["class_logits"].float().flatten(1, 3)
    sums = codes.new_zeros(4)
    for i, (all_boxes, all_labels, crowd) in enumerate(
        zip(targets["boxes"], targets["labels"], targets["crowd"], strict=True)
    ):
        boxes, labels = all_boxes[~crowd] / unit, all_labels[~crowd]
        background = ~(_is_found(predicted[i], boxes) | in_crowd(predicted[i], all_boxes[crowd] / unit))
        place, wanted = encode_boxes(boxes, (rows, columns), anchors)
        background[place] = False
        last = ~(place[:, None] == place).triu(diagonal=1).any(dim=1)
        boxes, labels, place, wanted = boxes[last], labels[last], place[last], wanted[last]
        coded = torch.cat([codes[i, place, :2].sigmoid(), codes[i, place, 2:]], dim=1)
        # The same error is worse in a small box.
        weights = 2 - bx.area(boxes)[:, None]
        overlaps = bx.iou(predicted[i, place], boxes).diagonal()
        sums = sums + torch.stack(
            [
                (weights * (coded - wanted).square()).sum() / 2,
                OBJECT_SCALE * (objectness[i, place] - overlaps).square().sum() / 2,
                objectness[i, background].square().sum() / 2,
                F.cross_entropy(logits[i, place], labels, reduction="sum"),
            ]
        )
    names = ("localization", "objectness", "background", "classification")
    return dict(zip(names, sums / images, strict=True))


def _on_origin(sides: Tensor) -> Tensor:
    """Converts ``(N, 2)`` width and height to ``(N, 4)`` boxes with a common corner."""
    return torch.cat([torch.zeros_like(sides), sides], dim=1)


def _is_found(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Returns which of ``(P, 4)`` predictions overlap one of ``(N, 4)`` objects well: ``(P,)`` bool."""
    return (bx.iou(predicted, boxes) >= FOUND_IOU).any(dim=1)
