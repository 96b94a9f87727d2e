"""Exponential decay, which trained the paper's networks (Section 6.1)."""

from dataclasses import dataclass

from mbv2kit.errors import UserError
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

    gamma: float = 0.98
    decay_epochs: float = 1.0
    staircase: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay_epochs <= 0:
            raise UserError(f"decay_epochs must be above 0, got {self.decay_epochs}.")

    def factor(self, step: int) -> float:
        """Returns ``gamma`` to the power of the times so far, warm-up included."""
        times = step / (self.decay_epochs * self.steps_per_epoch)
        return float(self.gamma ** (int(times) if self.staircase else times))
