"""The same learning rate throughout."""

from dataclasses import dataclass

from mbv2kit.training.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("constant")
@dataclass(frozen=True)
class Constant(Schedule):
    """The peak learning rate throughout, after the warm-up."""

    def factor(self, step: int) -> float:
        """Returns 1."""
        return 1.0
