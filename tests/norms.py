"""Batch norms that have seen something."""

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
