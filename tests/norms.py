"""Batch norms that have seen something."""

import numpy as np
from numpy.typing import NDArray
from torch import nn


def randomize_norms(module: nn.Module) -> None:
    """Draws every number of every batch norm in ``module``, so that a test notices one that is mixed up or left out."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns weight and bias of a convolution with its batch norm folded in."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = (conv.weight * scale[:, None, None, None]).detach().numpy()
    return weight, (norm.bias - norm.running_mean * scale).detach().numpy()
