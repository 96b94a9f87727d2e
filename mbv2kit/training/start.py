"""Starting a run from weights: what they decide, what of them the model takes, and batch norms that were folded."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn

from mbv2kit.backbones import BACKBONES
from mbv2kit.data.datamodule import TrainingBatch
from mbv2kit.errors import UserError
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.tensors import load_tensors

_log = logging.getLogger(__name__)

# What a user may choose about a backbone whatever its weights: it changes neither shapes nor what the numbers mean.
_FREE = frozenset({"name", "output_stride", "norm_momentum", "zero_init_residual", "ceil_pooling"})
_NORMALISATION: Mapping[str, Any] = {field.name: field.default for field in fields(ModelSpec)}


def adopt(config: DictConfig, spec: ModelSpec, weights: str) -> DictConfig:
    """Returns the config with everything in it that belongs to the weights: network, padding, epsilon, normalization.

    Keys at their default give way to the weights.

    Args:
        config: Of a training run.
        spec: Of the model that the weights are of.
        weights: What the user calls them.

    Raises:
        UserError: The config asks for something else than the weights are.
    """
    config = config.copy()
    theirs = dict(spec.backbone)
    name = config.backbone.name
    if name != theirs["name"]:
        raise UserError(
            f"weights={weights} are of {theirs['name']}, but backbone is {name}; set backbone={theirs['name']}."
        )
    defaults = BACKBONES.options(name)
    wanted = {f"backbone.{key}": (theirs.get(key, value), value) for key, value in defaults.items() if key not in _FREE}
    for key in ("mean", "std"):
        wanted[f"normalisation.{key}"] = (getattr(spec, key), _NORMALISATION[key])
    adopted: list[str] = []
    for key, values in wanted.items():
        found, value, default = map(_listed, (OmegaConf.select(config, key), *values))
        if found == value:
            continue
        if found != default:
            raise UserError(
                f"{key}={found}, but weights={weights} go with {value}; leave {key} out, the weights set it."
            )
        OmegaConf.update(config, key, value)
        adopted.append(f"{key}={value}")
    if adopted:
        _log.info("the weights set %s", ", ".join(adopted))
    return config


def _listed(value: Any) -> Any:
    """Makes tuples, which specs hold, and the lists of a config comparable."""
    return list(value) if isinstance(value, tuple | ListConfig) else value


def load_weights(model: VisionModel, start: VisionModel, weights: str) -> None:
    """Copies what fits from ``start`` into ``model``, and says what became of every tensor.

    Raises:
        UserError: Nothing of the backbone fits.
    """
    report = load_tensors(model, start.state_dict())
    left_out = dict.fromkeys(start.spec.origin.get("left_out", ()), "no network here has such a part")
    report = replace(report, skipped={**report.skipped, **left_out})
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(report.table())
    _log.info("from %s:\n%s", weights, capture.get().rstrip())
    if not any(name.startswith("backbone.") and name.endswith(".weight") for name in report.loaded):
        raise UserError(f"weights={weights}: nothing of them fits the backbone; the table above says why.")


def is_folded(norm: nn.BatchNorm2d) -> bool:
    """Tells whether a batch norm stands for one that was folded into its convolution: it only adds a bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    unit = torch.full_like(norm.running_var, 1 - norm.eps)
    return bool((norm.running_mean == 0).all() and torch.equal(norm.running_var, unit) and (norm.weight == 1).all())


@torch.no_grad()
def unfold_norms(model: VisionModel, batches: Iterable[TrainingBatch]) -> int:
    """Gives folded batch norms the statistics of real images, without changing what the model computes.

    A folded norm has no statistics. In training it would divide by those of the batch, and the network would be another
    from the first step on. With mean and variance of its input measured, scale and shift can be set so that both
    forms agree.

    Args:
        model: On the CPU.
        batches: Images to measure on.

    Returns:
        How many norms were folded.
    """
    folded = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d) and is_folded(part)]
    if not folded:
        return 0
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in folded}
    counts = dict.fromkeys(folded, 0)

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        values = inputs[0].double()
        sums[norm] += torch.stack([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3))])
        counts[norm] += values.numel() // norm.num_features

    handles = [norm.register_forward_pre_hook(measure) for norm in folded]
    training = model.training
    model.eval()
    for batch in batches:
        model(batch.images)
    model.train(training)
    for handle in handles:
        handle.remove()
    for norm in folded:
        mean, square = sums[norm] / counts[norm]
        variance = (square - mean.square()).clamp(min=0)
        values: dict[str, Any] = {
            "weight": (variance + norm.eps).sqrt(),
            "bias": norm.bias + mean,
            "running_mean": mean,
            "running_var": variance,
        }
        for name, value in values.items():
            getattr(norm, name).copy_(value)
    return len(folded)
