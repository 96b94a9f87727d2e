"""AdamW: Decoupled Weight Decay Regularization. Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101."""

import torch

from mbv2kit.training.optimizers.base import OPTIMIZERS, Parameters


@OPTIMIZERS.register("adamw")
def adamw(
    params: Parameters,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW, the optimizer to begin with, on small data and from published weights.

    Args:
        params: Parameters or parameter groups.
        lr: Peak learning rate, for the batch size as given.
        weight_decay: Share of a parameter taken off at each step, times the learning rate.
        betas: Shares of the mean gradient and of the mean square kept at each step.
        eps: Added to the root of the mean square.

    Raises:
        ValueError: A value is out of range.
    """
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=True)
