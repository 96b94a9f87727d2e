"""RMSProp as TensorFlow computes it, which trained the paper's networks (Section 6.1)."""

from collections.abc import Callable
from typing import Annotated, Any, overload

import torch
from torch import Tensor

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

    Attributes:
        found_inf: 1 on the device where the next step must change nothing, as torch's fused optimizers have it.
    """

    skips_on_device = True
    found_inf: Tensor | None = None

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
            if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._move(parameters, group)
        return loss

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["mean_square"] = torch.ones_like(parameter)
                self.state[parameter]["update"] = torch.zeros_like(parameter)
        squares = [self.state[parameter]["mean_square"] for parameter in parameters]
        updates = [self.state[parameter]["update"] for parameter in parameters]
        counts = parameters[0].new_ones(())
        if self.found_inf is not None:
            counts = counts - self.found_inf.to(counts.dtype)
        skipped = counts == 0

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        for gradient in gradients:
            gradient.masked_fill_(skipped, 0.0)
        share = (1 - group["decay"]) * counts
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), [share] * len(squares))
        roots = torch._foreach_sqrt(torch._foreach_add(squares, group["eps"]))
        torch._foreach_mul_(updates, torch.where(skipped, torch.ones_like(counts), group["momentum"]))
        torch._foreach_add_(updates, torch._foreach_div(gradients, roots), alpha=group["lr"])
        torch._foreach_addcmul_(parameters, updates, [-counts] * len(parameters))
