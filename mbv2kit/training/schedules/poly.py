"""Polynomial decay, as DeepLab is trained (Chen et al. 2017, arXiv 1706.05587, section 4)."""

from dataclasses import dataclass
from typing import Annotated

from mbv2kit.schema.rules import between
from mbv2kit.training.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("poly")
@dataclass(frozen=True)
class Poly(Schedule):
    """``(1 - step / steps) ** power``, as DeepLab is trained.

    Attributes:
        power: Exponent.
    """

    power: Annotated[float, between(0, 100)] = 0.9

    def factor(self, step: int) -> float:
        """Returns the factor; 0 from the end of the run on."""
        return float((1 - self.progress(step)) ** self.power)
