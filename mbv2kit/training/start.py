"""The weights that a run starts from: opening them, copying them, and unfolding batch norms."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from mbv2kit.data.datamodule import TrainingBatch
from mbv2kit.errors import UserError
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.plan import Plan
from mbv2kit.weights.class_rows import rows_by_name
from mbv2kit.weights.open import open_model
from mbv2kit.weights.partial_loading import LoadReport, load_tensors
from mbv2kit.weights.predictor_maps import tensors_by_map

_log = logging.getLogger(__name__)


def open_start(plan: Plan) -> tuple[Plan, VisionModel | None]:
    """Opens the ``weights`` of a config.

    Returns:
        The plan, with the parts of the config that the weights decide; and their model, None if the run starts
        from fresh weights or from a checkpoint.

    Raises:
        UserError: There are no such weights, or the config does not fit them.
    """
    weights: str | None = plan.config.weights
    # A checkpoint includes the weights.
    if weights is None or plan.last.is_file():
        return plan, None
    start, _ = open_model(weights, class_names=plan.config.class_names)
    return replace(plan, config=plan.qat.adopt(plan.config, start.spec, weights)), start


def load_weights(model: VisionModel, start: VisionModel, weights: str) -> LoadReport:
    """Copies the tensors of ``start`` that fit into ``model``, and logs and returns the outcome for each tensor.

    Args:
        model: The model to train.
        start: The model that the weights belong to.
        weights: The user's name for them.

    Raises:
        UserError: No weight of the backbone fits.
    """
    tensors = tensors_by_map(model, start)
    report = load_tensors(model, tensors, rows_by_name(model, start.class_names, tensors))
    left_out = dict.fromkeys(start.spec.origin.get("left_out", ()), "not supported by any network")
    report = replace(report, skipped={**report.skipped, **left_out})
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(report.table())
    _log.info("from %s:\n%s", weights, capture.get().rstrip())
    if not any(name.startswith("backbone.") and name.endswith(".weight") for name in report.loaded):
        raise UserError(f"weights={weights}: none of them fits the backbone; the table above says why.")
    return report


def is_folded(norm: nn.BatchNorm2d) -> bool:
    """Returns whether a batch norm was folded into its convolution, so that it only adds a bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    unit = torch.full_like(norm.running_var, 1 - norm.eps)
    return bool((norm.running_mean == 0).all() and torch.equal(norm.running_var, unit) and (norm.weight == 1).all())


@torch.no_grad()
def unfold_norms(model: VisionModel, batches: Iterable[TrainingBatch]) -> int:
    """Gives folded batch norms the statistics of real images, without changing what the model computes.

    A folded norm has no statistics of its own. In training it would divide by those of the batch, which changes the
    network in the first step. With measured means and variances of its input, scale and shift can be set so that both
    modes compute the same.

    Args:
        model: The model to change, on the CPU.
        batches: Images to measure on.

    Returns:
        The number of folded norms.
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
