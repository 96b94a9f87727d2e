"""Finds boxes in crowd regions, which a detector's loss treats neither as objects nor as background."""

import torch
from torch import Tensor

from mbv2kit.nn import boxes as bx

# A box with more than half of its area in a crowd region may show one of its objects, so it is not background.
CROWD_COVER = 0.5


def in_crowd(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Returns ``(N,)`` bool: which of ``(N, 4)`` boxes have over half of their area in one of ``(M, 4)`` crowds."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    shared = bx.intersection(boxes, crowds).amax(dim=1)
    return shared > CROWD_COVER * bx.area(boxes)
