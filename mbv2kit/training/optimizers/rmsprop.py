"""RMSProp as TensorFlow computes it, which trained the paper's networks (Section 6.1)."""

from collections.abc import Callable
from typing import Annotated, overload

import torch

from mbv2kit.schema.rules import Fraction, between
from mbv2kit.training.optimizers.base import OPTIMIZERS, Parameters


@OPTIMIZERS.register("rmsprop")
class RMSprop(torch.optim.Optimizer):
    """RMSProp in TensorFlow's form, with the values of the paper.

    It differs from torch's in three points: epsilon lies inside the root, the mean square starts at 1, and the
    learning rate multiplies the gradient before it enters the momentum. With the recipe's epsilon of 1.0 the first
    two matter much.

    Args:
        params: Parameters or parameter groups.
        lr: Peak learning rate; the paper's 0.045 is for 96 images on each of 16 GPUs.
        weight_decay: Added to the gradient, times the parameter.
        decay: Share of the mean square kept at each step, from 0 up to but not including 1.
        momentum: Share of the last update kept at each step, from 0 up to but not including 1.
        eps: Added to the mean square before the root.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Annotated[float, between(0, 1000)] = 0.045,
        weight_decay: Annotated[float, between(0, 1000)] = 4e-5,
        decay: Fraction = 0.9,
        momentum: Fraction = 0.9,
        eps: Annotated[float, between(0, 1000)] = 1.0,
    ) -> None:
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Takes one step; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                state = self.state[parameter]
                if not state:
                    state["mean_square"] = torch.ones_like(parameter)
                    state["update"] = torch.zeros_like(parameter)
                state["mean_square"].lerp_(gradient.square(), 1 - group["decay"])
                scaled = gradient.div_(state["mean_square"].add(group["eps"]).sqrt_())
                state["update"].mul_(group["momentum"]).add_(scaled, alpha=group["lr"])
                parameter.sub_(state["update"])
        return loss
