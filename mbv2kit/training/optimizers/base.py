"""How an optimizer is built from a config, and which parameters decay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mbv2kit.errors import UserError
from mbv2kit.registry import Registry

# Parameters, or groups of them that bring their own learning rate and weight decay.
Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DecayOptions:
    """Options of every optimizer.

    Attributes:
        decay_norm_bias_depthwise: Whether batch norms, biases and depthwise kernels decay too.
    """

    decay_norm_bias_depthwise: bool = False


# Each is built from parameter groups, and has the options ``lr`` and ``weight_decay`` among its own.
OPTIMIZERS: Registry[Optimizer] = Registry("optimizer", "mbv2kit.training.optimizers", shared=DecayOptions())


def create_optimizer(
    model: nn.Module, config: Mapping[str, Any], backbone_lr: float = 1.0, others: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """Builds the optimizer that a config describes.

    Args:
        model: The model to train.
        config: ``name``, and any of the keys of that optimizer; those left out keep their defaults.
        backbone_lr: Factor on the learning rate of the model's backbone.
        others: Parameters besides the model's, which do not decay.

    Raises:
        UserError: The name or a key is missing or unknown, a value is out of range, or nothing is left to train.
    """
    # Checked here, because the values go into the parameter groups before the optimizer is built.
    OPTIMIZERS.check(config, "optimizer")
    options = {**OPTIMIZERS.keys(config["name"]), **config}
    name, everything = options.pop("name"), options.pop("decay_norm_bias_depthwise")
    groups = parameter_groups(
        model,
        lr=options["lr"],
        weight_decay=options["weight_decay"],
        everything=everything,
        backbone_lr=backbone_lr,
    )
    if not groups:
        raise UserError("Nothing is left to train: every layer is frozen (finetune.frozen_layers).")
    if others := list(others):
        groups.append({"params": others, "lr": options["lr"], "weight_decay": 0.0})
    try:
        optimizer = OPTIMIZERS.create(name, groups, **options)
    except (TypeError, ValueError) as error:  # of a plugin's optimizer
        raise UserError(f"optimizer '{name}' cannot be built with {options}: {error}.") from None
    # A fused optimizer would undo the scale of 16-bit gradients itself, after they are checked and clipped.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def hold_back(optimizer: Optimizer, counts: Tensor) -> None:
    """Lets the next step of an optimizer change nothing unless it counts.

    Optimizers that torch fuses for processors and NVIDIA's GPUs, and those with ``skips_on_device``, find out on the
    device; for another one the host waits for the answer.

    Args:
        optimizer: The optimizer, whose parameters have their gradients.
        counts: Whether the step counts, a bool on the device of the model.
    """
    fused = counts.device.type in ("cpu", "cuda") and all(group.get("fused") for group in optimizer.param_groups)
    if fused or getattr(optimizer, "skips_on_device", False):
        optimizer.found_inf = (~counts).float()  # type: ignore[attr-defined]
    elif not counts:
        optimizer.zero_grad()


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, everything: bool = False, backbone_lr: float = 1.0
) -> list[dict[str, Any]]:
    """Groups the parameters to train by learning rate and by whether they decay.

    Batch norms, biases and depthwise kernels do not decay, as in the paper's TensorFlow recipe: they have few weights
    and no neighbors to share the work with.

    Args:
        model: The model to train; its ``backbone``, if it has one, may have a learning rate of its own.
        lr: Learning rate.
        weight_decay: Weight decay of the parameters that decay.
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
