"""Which boxes lie in a crowd region: what a detector's loss takes neither for an object nor for background."""

import torch
from torch import Tensor

from mbv2kit.nn import boxes as bx

# A box that lies by half in a crowd region may well show one of its objects: it is no background.
CROWD_COVER = 0.5


def in_crowd(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Tells which of ``(N, 4)`` boxes lie by more than half in one of ``(M, 4)`` crowd regions: ``(N,)`` bool."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    shared = bx.intersection(boxes, crowds).amax(dim=1)
    return shared > CROWD_COVER * bx.area(boxes)
