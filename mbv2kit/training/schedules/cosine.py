"""Half a cosine, as in SGDR without its restarts. Loshchilov and Hutter, ICLR 2017, arXiv 1608.03983."""

from dataclasses import dataclass
from math import cos, pi

from mbv2kit.schema.rules import Epochs, Share
from mbv2kit.training.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("cosine")
@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the peak down to a share of it at the last step.

    Attributes:
        final_fraction: Share of the peak left at the end, 0..1.
    """

    warmup_epochs: Epochs = 1.0
    final_fraction: Share = 0.0

    def factor(self, step: int) -> float:
        """Returns the factor; ``final_fraction`` from the last step on."""
        return self.final_fraction + (1 - self.final_fraction) * (1 + cos(pi * self.progress(step))) / 2
