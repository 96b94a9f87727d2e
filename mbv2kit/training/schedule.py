"""The learning rate as a pure function of the step, so that a resumed run goes on exactly where it stopped."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

from mbv2kit.errors import UserError
from mbv2kit.layers import check_choice

Kind = Literal["constant", "exponential", "cosine", "poly"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Factor on the peak learning rate at each optimiser step.

    Attributes:
        name: ``constant``; ``exponential``, by ``gamma`` an epoch; ``cosine``, down to ``final_fraction`` at the end;
            ``poly``, ``(1 - step / steps) ** power``.
        steps_per_epoch: Optimiser steps in one epoch.
        epochs: Epochs of the whole run.
        warmup_epochs: Epochs, also parts of one, over which the factor first climbs from near 0 to 1.
        gamma: Factor an epoch.
        staircase: Whether ``gamma`` is applied at once at the end of each epoch rather than a little at every step.
        power: Exponent of ``poly``.
        final_fraction: Share of the peak at the end of ``cosine``.
    """

    name: Kind
    steps_per_epoch: int
    epochs: int
    warmup_epochs: float = 0.0
    gamma: float = 0.98
    staircase: bool = True
    power: float = 0.9
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        check_choice("scheduler.name", self.name, Kind)
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise UserError(
                f"scheduler.warmup_epochs must be between 0 and trainer.max_epochs ({self.epochs}), "
                f"got {self.warmup_epochs}."
            )

    def __call__(self, step: int) -> float:
        """Returns the factor for the step with this number, counted from 0."""
        warmup = round(self.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            return (step + 1) / warmup
        total = self.epochs * self.steps_per_epoch
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        if self.name == "cosine":
            return self.final_fraction + (1 - self.final_fraction) * (1 + cos(pi * progress)) / 2
        if self.name == "poly":
            return float((1 - progress) ** self.power)
        if self.name == "exponential":
            epoch = step / self.steps_per_epoch
            return float(self.gamma ** (int(epoch) if self.staircase else epoch))
        return 1.0


def create_schedule(config: Mapping[str, Any], steps_per_epoch: int, epochs: int) -> Schedule:
    """Builds the schedule of a config: ``name`` and the keys that :class:`Schedule` documents for it.

    Raises:
        UserError: The name is unknown or the warm-up does not fit into the run.
    """
    return Schedule(steps_per_epoch=steps_per_epoch, epochs=epochs, **config)
