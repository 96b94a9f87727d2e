"""A fall at each of a few points of the run, as SSD and YOLOv2 are trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbv2kit.errors import UserError
from mbv2kit.training.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("steps")
@dataclass(frozen=True)
class Steps(Schedule):
    """A constant factor at each of a few points of the run, as SSD and YOLOv2 are trained.

    Attributes:
        gamma: Factor each time.
        milestones: Epochs after which the learning rate falls, in rising order; fractions count.
    """

    gamma: float = 0.1
    milestones: Sequence[float] = (20, 26)

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) <= 0:
            raise UserError(
                f"milestones must be epochs above 0 in rising order, each given once, got {list(self.milestones)}."
            )

    def factor(self, step: int) -> float:
        """Returns ``gamma`` to the power of the milestones passed so far."""
        return float(self.gamma ** sum(step >= round(epoch * self.steps_per_epoch) for epoch in self.milestones))
