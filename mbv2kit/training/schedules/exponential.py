"""Exponential decay, which trained the paper's networks (Section 6.1)."""

from dataclasses import dataclass
from typing import Annotated

from mbv2kit.schema.rules import above
from mbv2kit.training.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("exponential")
@dataclass(frozen=True)
class Exponential(Schedule):
    """A constant factor once every few epochs; the paper's is 0.98 an epoch (Section 6.1).

    Attributes:
        gamma: Factor each time.
        decay_epochs: Epochs from one time to the next, above 0; fractions count.
        staircase: Whether the factor applies at once rather than a little at every step.
    """

    gamma: Annotated[float, above(0, 1)] = 0.98
    decay_epochs: Annotated[float, above(0, 1_000_000)] = 1.0
    staircase: bool = True

    def factor(self, step: int) -> float:
        """Returns ``gamma`` to the power of the times so far, warm-up included."""
        times = step / (self.decay_epochs * self.steps_per_epoch)
        return float(self.gamma ** (int(times) if self.staircase else times))
