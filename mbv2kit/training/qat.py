"""Quantization-aware fine-tuning: a trained model learns to compute in int8, and stays a model like any other."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from mbv2kit.backbones import BACKBONES
from mbv2kit.data.align import align_classes
from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError, first_few
from mbv2kit.heads.registry import HEADS
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task
from mbv2kit.training.qat_simulation import Int8Simulation

_log = logging.getLogger(__name__)

PRECISION = "32-true"


@dataclass(frozen=True, slots=True, kw_only=True)
class QatOptions:
    """Whether and how int8 is simulated in training.

    Attributes:
        enabled: Whether it is.
        norms_frozen_after: Epochs, also parts of one, after which all batch norms keep their statistics.
        ranges_frozen_after: Epochs, also parts of one, after which activations keep their ranges; None for never.

    Raises:
        UserError: A number is below 0.
    """

    enabled: bool = False
    norms_frozen_after: float = 0.0
    ranges_frozen_after: float | None = None

    def __post_init__(self) -> None:
        for key in ("norms_frozen_after", "ranges_frozen_after"):
            value = getattr(self, key)
            if value is None and key == "ranges_frozen_after":
                continue
            if not isinstance(value, int | float) or not value >= 0:
                raise UserError(f"qat.{key} must be a number of epochs from 0 up, got {value}.")


class QuantizationAwareness(Int8Simulation):
    """What a run needs for int8: the simulation, and when it stops changing.

    Args:
        model: The model to train.
        options: When to freeze what.
        steps_per_epoch: Optimizer steps in one epoch.
    """

    def __init__(self, model: VisionModel, options: QatOptions, steps_per_epoch: int) -> None:
        super().__init__(model)
        self._norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        self._options = options
        self._steps_per_epoch = steps_per_epoch

    def begin_step(self, step: int) -> None:
        """Freezes what is to be frozen from the step with this number on."""
        epochs = step / self._steps_per_epoch
        self.observes = self._options.ranges_frozen_after is None or epochs < self._options.ranges_frozen_after
        if epochs >= self._options.norms_frozen_after:
            for norm in self._norms:
                norm.eval()


def check_qat(config: Mapping[str, Any]) -> None:
    """Checks the part ``qat`` of a training config, and that the rest goes with it.

    Raises:
        UserError: A value is out of range, there are no weights, or the precision is another than float32.
    """
    if not QatOptions(**config["qat"]).enabled:
        return
    if config["weights"] is None:
        raise UserError(
            "qat.enabled fine-tunes a trained model for int8, but weights is null; "
            "name a run, a model folder or a published file: weights=PATH."
        )
    precision = config["trainer"]["precision"]
    if precision != PRECISION:
        raise UserError(
            f"trainer.precision={precision} is coarser than the int8 that qat.enabled simulates; "
            f"set trainer.precision={PRECISION}."
        )


def adopt_whole(config: DictConfig, spec: ModelSpec, weights: str) -> DictConfig:
    """Returns the config with network, head, input and normalization of the weights, whatever it had before.

    Args:
        config: Of a training run.
        spec: Of the model that the weights are of.
        weights: What the user calls them.

    Raises:
        UserError: The weights do another task.
    """
    task: Task = config.task.name
    if task not in spec.heads:
        raise UserError(
            f"weights={weights} do {', '.join(spec.heads)}, but task is {task}; qat.enabled needs a model that is "
            "trained for the task."
        )
    head = spec.heads[task]
    theirs: dict[str, Any] = {
        "backbone": {**BACKBONES.options(spec.backbone["name"]), **spec.backbone},
        "head": {**HEADS.options(head["name"]), **head},
        "input": asdict(spec.input),
        "normalisation": {"mean": spec.mean, "std": spec.std},
    }
    config = config.copy()
    for part, values in theirs.items():
        new = OmegaConf.create(values)
        changed = [f"{part}.{key}={value}" for key, value in new.items() if config[part].get(key) != value]
        if changed:
            _log.info("the weights set %s", ", ".join(changed))
        OmegaConf.update(config, part, new, merge=False)
    return config


def check_classes(source: Source, model: VisionModel, task: Task) -> None:
    """Checks that a source has the classes of a model, in their order.

    Raises:
        UserError: It has others.
    """
    names = model.class_names[task]
    align_classes(source, names)
    if len(source.class_names) != len(names) or (
        source.class_names != tuple(names) and set(source.class_names) == set(names)
    ):
        raise UserError(
            f"The data set has the classes {_shown(source.class_names)}, the weights have {_shown(names)}; qat.enabled "
            "needs the same in the same order, so train on this data set first."
        )


def _shown(names: tuple[str, ...] | Any) -> str:
    return f"{first_few(names)} ({len(names)})"
