"""Stochastic gradient descent, with the weight decay of the paper's recipes."""

import torch

from mbv2kit.training.optimizers.base import OPTIMIZERS, Parameters


@OPTIMIZERS.register("sgd")
def sgd(
    params: Parameters,
    lr: float = 0.05,
    weight_decay: float = 4e-5,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> torch.optim.SGD:
    """Stochastic gradient descent with Nesterov momentum.

    Args:
        params: Parameters or parameter groups.
        lr: Peak learning rate, for the batch size as given.
        weight_decay: Added to the gradient, times the parameter.
        momentum: Share of the last update kept at each step.
        nesterov: Whether the gradient is that of the point to which the momentum leads.

    Raises:
        ValueError: A value is out of range.
    """
    return torch.optim.SGD(params, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, fused=True)
