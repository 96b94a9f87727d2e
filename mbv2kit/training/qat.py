"""Quantization-aware training: a trained model learns to compute in int8, and stays an ordinary model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from mbv2kit.data.align import align_classes
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError, first_few
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.adopt import adopt, adopt_whole
from mbv2kit.training.checks import heads_of
from mbv2kit.training.qat_simulation import Int8Simulation, round_weights

PRECISION = "32-true"


@dataclass(frozen=True, slots=True, kw_only=True)
class QatOptions:
    """Whether and how int8 is simulated in training.

    Attributes:
        enabled: Whether to simulate int8.
        norms_frozen_after: Epochs after which all batch norms keep their statistics; may be a fraction.
        ranges_frozen_after: Epochs after which activations keep their ranges; may be a fraction. None means never.
    """

    enabled: bool = False
    norms_frozen_after: float = 0.0
    ranges_frozen_after: float | None = None


class FloatTraining:
    """Training without quantization: the stages of a run at which :class:`Int8Training` does something.

    Attributes:
        simulation: What a checkpoint must hold besides the model.
        origin: What ``model.json`` says about the training.
    """

    simulation: nn.Module
    origin: Mapping[str, str]

    def __init__(self) -> None:
        self.simulation = nn.ModuleList()
        self.origin = {}

    def adopt(self, config: DictConfig, spec: ModelSpec, weights: str) -> DictConfig:
        """Returns the config with what the weights decide; see :func:`mbv2kit.training.adopt.adopt`."""
        return adopt(config, spec, weights)

    def prepare(self, model: VisionModel, source: Joined, start: VisionModel | None, steps_per_epoch: int) -> None:
        """Gets ready for a model, before its weights are loaded.

        Args:
            model: The model to train.
            source: The training split.
            start: The model whose weights the run starts from; None if it continues from a checkpoint.
            steps_per_epoch: Optimizer steps in one epoch.
        """

    def attach(self, model: VisionModel, deployed: VisionModel, batches: Iterable[Tensor]) -> None:
        """Takes part in every pass from now on.

        Args:
            model: The model to train.
            deployed: The model to validate: its moving average, or the same.
            batches: ``(B, 3, H, W)`` uint8 each, to measure activations on; none if a checkpoint has the ranges.
        """

    def begin_step(self, step: int) -> None:
        """Looks at the number of the step that comes next, counted from 0."""

    def finish(self, model: VisionModel) -> None:
        """Changes the weights of a trained model before it is saved."""


class Int8Training(FloatTraining):
    """Training in which every pass simulates int8, those of validation included.

    Args:
        options: When batch norms and ranges stop changing.
    """

    simulation: Int8Simulation

    def __init__(self, options: QatOptions) -> None:
        self.origin = {"fine_tuned_for": "int8"}
        self._options = options
        self._norms: list[nn.BatchNorm2d] = []
        self._steps_per_epoch = 0

    def adopt(self, config: DictConfig, spec: ModelSpec, weights: str) -> DictConfig:
        """Returns the config with the whole network of the weights, from input to head: int8 fine-tunes just that."""
        purpose = "qat.enabled needs a model that is trained for the task"
        return adopt_whole(config, spec, weights, heads_of(config), purpose)

    def prepare(self, model: VisionModel, source: Joined, start: VisionModel | None, steps_per_epoch: int) -> None:
        """Makes the simulation for a model.

        Raises:
            UserError: The data set has other classes than the weights.
        """
        if start is not None:
            for head, each in source.sources.items():
                check_classes(each, start, head)
        self.simulation = Int8Simulation(model)
        self._norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        self._steps_per_epoch = steps_per_epoch

    def attach(self, model: VisionModel, deployed: VisionModel, batches: Iterable[Tensor]) -> None:
        """Makes both models simulate int8, and measures the ranges of the activations."""
        for each in {model, deployed}:
            self.simulation.attach(each)
        self.simulation.calibrate(model, batches)

    def begin_step(self, step: int) -> None:
        """Freezes batch norms and ranges from their steps on."""
        epochs = step / self._steps_per_epoch
        frozen_after = self._options.ranges_frozen_after
        self.simulation.observes = frozen_after is None or epochs < frozen_after
        if epochs >= self._options.norms_frozen_after:
            for norm in self._norms:
                norm.eval()

    def finish(self, model: VisionModel) -> None:
        """Moves the weights onto the grid of int8."""
        round_weights(model)


def create_qat(config: Mapping[str, Any]) -> FloatTraining:
    """Creates the training that the part ``qat`` of a config describes, and checks that the rest fits.

    Raises:
        UserError: There are no weights, the precision is not float32, or a key is set that only int8 training has.
    """
    options = QatOptions(**config["qat"])
    if not options.enabled:
        _check_unused(options)
        return FloatTraining()
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
    return Int8Training(options)


def _check_unused(options: QatOptions) -> None:
    """Checks that no option is set that would do nothing.

    Raises:
        UserError: One is, without ``enabled``.
    """
    for field in fields(options):
        if getattr(options, field.name) != field.default:
            raise UserError(
                f"qat.{field.name}={getattr(options, field.name)} does nothing without qat.enabled=true; "
                "set that, or leave the key out."
            )


def check_classes(source: Source, model: VisionModel, head: str) -> None:
    """Checks that a source has the classes of a model, in the same order.

    Raises:
        UserError: The classes or their order differ.
    """
    names = model.class_names[head]
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
