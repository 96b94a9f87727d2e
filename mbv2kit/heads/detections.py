"""What detectors share: which of their many boxes they show, and which boxes lie in a crowd."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbv2kit import boxes as bx
from mbv2kit.errors import UserError
from mbv2kit.structures import Detections, Prediction

# A box that lies by half in a crowd region may well show one of its objects: it is no background.
CROWD_COVER = 0.5
_CANDIDATES = 1000


@dataclass(frozen=True, slots=True)
class Selection:
    """Picks the boxes that a detector shows: the highest scores, after suppression within each class.

    Attributes:
        score_threshold: Boxes below it are dropped before suppression.
        nms_iou: Overlap at which suppression takes two boxes of a class for one.
        max_detections: Boxes kept for each image.

    Raises:
        UserError: A value is out of range.
    """

    score_threshold: float
    nms_iou: float
    max_detections: int

    def __post_init__(self) -> None:
        check_shares(score_threshold=self.score_threshold, nms_iou=self.nms_iou)
        if self.max_detections < 1:
            raise UserError(f"head.max_detections must be at least 1, got {self.max_detections}.")

    def __call__(self, boxes: Tensor, scores: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Returns the detections of each image, clipped to it, in input pixels.

        Args:
            boxes: ``(B, N, 4)`` on the unit square, float32.
            scores: ``(B, N, num_classes)`` in 0..1, without background.
            sizes: (height, width) of the input of each image.
        """
        found: list[Prediction] = []
        for image_scores, image_boxes, (height, width) in zip(scores, boxes, sizes, strict=True):
            limits = image_boxes.new_tensor([width, height, width, height])
            pixels = torch.minimum((image_boxes * limits).clamp(min=0), limits)
            box, label = torch.nonzero(image_scores > self.score_threshold, as_tuple=True)
            values = image_scores[box, label]
            if len(values) > _CANDIDATES:
                values, best = values.topk(_CANDIDATES)
                box, label = box[best], label[best]
            keep = bx.suppress(pixels[box], values, label, self.nms_iou, self.max_detections)
            found.append(
                Detections(pixels[box][keep].cpu().numpy(), label[keep].cpu().numpy(), values[keep].cpu().numpy())
            )
        return found


def in_crowd(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Tells which of ``(N, 4)`` boxes lie by more than half in one of ``(M, 4)`` crowd regions: ``(N,)`` bool."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    shared = bx.intersection(boxes, crowds).amax(dim=1)
    return shared > CROWD_COVER * bx.area(boxes)


def check_shares(**options: float) -> None:
    """Raises :class:`UserError` unless each of a head's options is in 0..1."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise UserError(f"head.{name} must be in 0..1, got {value}.")
