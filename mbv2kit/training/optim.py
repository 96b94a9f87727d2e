"""Optimizers, and which parameters decay."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError, nearest


class RMSprop(torch.optim.Optimizer):
    """RMSProp as TensorFlow computes it, which trained the paper's networks (Section 6.1).

    It differs from torch's in three points: epsilon lies inside the root, the mean square starts at 1, and the
    learning rate multiplies the gradient before it enters the momentum. With the recipe's epsilon of 1.0 the first
    two matter much.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate.
        decay: Share of the mean square that is kept at each step.
        momentum: Share of the last update that is kept.
        eps: Added to the mean square before the root.
        weight_decay: Added to the gradient, times the parameter.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.045,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not (0 <= decay < 1 and 0 <= momentum < 1):
            raise ValueError("lr, eps and weight_decay must not be negative, decay and momentum lie in [0, 1)")
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


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, everything: bool = False, backbone_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Splits the parameters that are trained by learning rate and by whether they decay.

    Batch norms, biases and depthwise kernels do not, as in the paper's TensorFlow recipe: they have few weights and
    no neighbors to share the work with.

    Args:
        model: What is trained; of a model with a part ``backbone`` that one may learn at a rate of its own.
        lr: Learning rate.
        weight_decay: Of the parameters that decay.
        everything: Whether all parameters decay.
        backbone_lr: Factor on the backbone's learning rate.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        within = backbone_lr != 1.0 and f"{name}.".startswith("backbone.")
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                decays = everything or not (parameter.ndim <= 1 or depthwise)
                groups.setdefault((within, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * backbone_lr if within else lr,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (within, decays), parameters in sorted(groups.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "rmsprop": RMSprop,
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
}


def create_optimizer(model: nn.Module, config: Mapping[str, Any], backbone_lr: float = 1.0) -> torch.optim.Optimizer:
    """Builds the optimizer of a config: ``name``, ``decay_norm_bias_depthwise``, and its constructor's arguments.

    Args:
        model: What is trained.
        config: Of the optimizer.
        backbone_lr: Factor on the learning rate of the model's backbone.

    Raises:
        UserError: The name or an argument is unknown, or a value is out of range.
    """
    options = dict(config)
    name = options.pop("name")
    everything = options.pop("decay_norm_bias_depthwise")
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer.name '{name}' is unknown.{nearest(name, OPTIMIZERS)}")
    groups = parameter_groups(
        model,
        lr=options["lr"],
        weight_decay=options["weight_decay"],
        everything=everything,
        backbone_lr=backbone_lr,
    )
    if not groups:
        raise UserError("Nothing is left to train: every layer is frozen (finetune.frozen_layers).")
    try:
        return OPTIMIZERS[name](groups, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer '{name}' cannot be built with {options}: {error}.") from None
