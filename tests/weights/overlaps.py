"""How much a box overlaps others."""

import numpy as np
import torch
from numpy.typing import NDArray

from mbv2kit.nn import boxes as bx


def overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the IoU ``(N,)`` of a box ``(4,)`` with others ``(N, 4)``."""
    ours, theirs = torch.from_numpy(box[None]).double(), torch.from_numpy(others).double()
    shared = bx.intersection(ours, theirs)
    values: NDArray[np.float64] = (shared / (bx.area(ours)[:, None] + bx.area(theirs) - shared))[0].numpy()
    return values
