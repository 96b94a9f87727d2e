"""The learning rate as a pure function of the step, so that a resumed run goes on exactly where it stopped."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.registry import Registry
from mbv2kit.schema.rules import Epochs


@dataclass(frozen=True)
class Schedule(ABC):
    """Factor on the peak learning rate at each optimizer step.

    Attributes:
        steps_per_epoch: Optimizer steps in one epoch.
        epochs: Epochs of the whole run.
        warmup_epochs: Epochs over which the factor first climbs from near 0 to 1; fractions count.

    Raises:
        UserError: A value is out of range.
    """

    steps_per_epoch: int
    epochs: int
    warmup_epochs: Epochs = 0.0

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"warmup_epochs must be at most the {self.epochs} epochs of the run, got {self.warmup_epochs}."
            )

    @abstractmethod
    def factor(self, step: int) -> float:
        """Returns the factor for a step after the warm-up, counted from the first step of the run."""

    def __call__(self, step: int) -> float:
        """Returns the factor for the step with this number, counted from 0."""
        warmup = self._warmup_steps()
        return (step + 1) / warmup if step < warmup else self.factor(step)

    def progress(self, step: int) -> float:
        """Returns how far the run is between the end of the warm-up (0) and its own end (1)."""
        warmup, total = self._warmup_steps(), self.epochs * self.steps_per_epoch
        return min(1.0, (step - warmup) / max(1, total - warmup))

    def _warmup_steps(self) -> int:
        return round(self.warmup_epochs * self.steps_per_epoch)


SCHEDULES: Registry[Schedule] = Registry("schedule", "mbv2kit.training.schedules", group="scheduler")


def create_schedule(config: Mapping[str, Any], steps_per_epoch: int, epochs: int) -> Schedule:
    """Builds the schedule that a config describes.

    Args:
        config: ``name``, and any of the keys of that schedule; those left out keep their defaults.
        steps_per_epoch: Optimizer steps in one epoch.
        epochs: Epochs of the whole run.

    Raises:
        UserError: The name or a key is missing or unknown, or a value is out of range.
    """
    options = dict(config)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"scheduler.name must be one of {', '.join(SCHEDULES.names())}, got {name}.")
    return SCHEDULES.create(name, steps_per_epoch, epochs, **options)
