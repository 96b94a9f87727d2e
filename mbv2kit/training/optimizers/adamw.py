"""AdamW: Decoupled Weight Decay Regularization. Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101."""

from typing import Annotated

import torch

from mbv2kit.schema.rules import Fraction, between
from mbv2kit.training.optimizers.base import OPTIMIZERS, Parameters


@OPTIMIZERS.register("adamw")
def adamw(
    params: Parameters,
    lr: Annotated[float, between(0, 1000)] = 1e-3,
    weight_decay: Annotated[float, between(0, 1000)] = 0.05,
    betas: tuple[Fraction, Fraction] = (0.9, 0.999),
    eps: Annotated[float, between(0, 1000)] = 1e-8,
) -> torch.optim.AdamW:
    """AdamW, the optimizer to begin with, on small data and from published weights.

    Args:
        params: Parameters or parameter groups.
        lr: Peak learning rate, for the batch size as given.
        weight_decay: Share of a parameter taken off at each step, times the learning rate.
        betas: Shares of the mean gradient and of the mean square kept at each step.
        eps: Added to the root of the mean square.
    """
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=True)
