"""Stochastic gradient descent, with the weight decay of the paper's recipes."""

from typing import Annotated

import torch

from mbv2kit.errors import UserError
from mbv2kit.schema.rules import Fraction, between
from mbv2kit.training.optimizers.base import OPTIMIZERS, Parameters


@OPTIMIZERS.register("sgd")
def sgd(
    params: Parameters,
    lr: Annotated[float, between(0, 1000)] = 0.05,
    weight_decay: Annotated[float, between(0, 1000)] = 4e-5,
    momentum: Fraction = 0.9,
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
        UserError: ``nesterov`` without momentum.
    """
    if nesterov and momentum == 0:
        raise UserError("nesterov needs a momentum above 0, got momentum=0; set nesterov=false.")
    optimizer = torch.optim.SGD(
        params, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, fused=True
    )
    for group in optimizer.param_groups if momentum else ():
        for parameter in group["params"]:
            # torch reserves the memory in the first step and does not fill it if that step is skipped.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
