"""A fall at each of a few points of the run, as SSD and YOLOv2 are trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from mbv2kit.schema.rules import RISING, above
from mbv2kit.training.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("steps")
@dataclass(frozen=True)
class Steps(Schedule):
    """A constant factor at each of a few points of the run, as SSD and YOLOv2 are trained.

    Attributes:
        gamma: Factor each time.
        milestones: Epochs after which the learning rate falls, in rising order; fractions count.
    """

    gamma: Annotated[float, above(0, 1)] = 0.1
    milestones: Annotated[Sequence[Annotated[float, above(0, 1_000_000)]], RISING] = (20, 26)

    def factor(self, step: int) -> float:
        """Returns ``gamma`` to the power of the milestones passed so far."""
        return float(self.gamma ** sum(step >= round(epoch * self.steps_per_epoch) for epoch in self.milestones))
