"""The learning rate as a pure function of the step, so that a resumed run goes on exactly where it stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Any, Literal

from mbv2kit.errors import UserError, check_choice

Kind = Literal["constant", "exponential", "steps", "cosine", "poly"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Factor on the peak learning rate at each optimizer step.

    Attributes:
        name: ``constant``; ``exponential``, by ``gamma`` every ``decay_epochs``; ``steps``, by ``gamma`` at each of
            ``milestones``; ``cosine``, down to ``final_fraction`` at the end; ``poly``,
            ``(1 - step / steps) ** power``.
        steps_per_epoch: Optimizer steps in one epoch.
        epochs: Epochs of the whole run.
        warmup_epochs: Epochs, also parts of one, over which the factor first climbs from near 0 to 1.
        gamma: Factor of ``exponential`` and of ``steps``.
        staircase: Whether ``exponential`` applies ``gamma`` at once every ``decay_epochs`` rather than a little at
            every step.
        power: Exponent of ``poly``.
        final_fraction: Share of the peak at the end of ``cosine``.
        decay_epochs: Epochs, also parts of one, in which ``exponential`` falls by ``gamma``.
        milestones: Epochs, also parts of one and in rising order, after which ``steps`` falls by ``gamma``.
    """

    name: Kind
    steps_per_epoch: int
    epochs: int
    warmup_epochs: float = 0.0
    gamma: float = 0.98
    staircase: bool = True
    power: float = 0.9
    final_fraction: float = 0.0
    decay_epochs: float = 1.0
    milestones: Sequence[float] = ()

    def __post_init__(self) -> None:
        check_choice("scheduler.name", self.name, Kind)
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise UserError(
                f"scheduler.warmup_epochs must be between 0 and trainer.max_epochs ({self.epochs}), "
                f"got {self.warmup_epochs}."
            )
        if self.decay_epochs <= 0:
            raise UserError(f"scheduler.decay_epochs must be above 0, got {self.decay_epochs}.")
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) <= 0:
            raise UserError(
                "scheduler.milestones must be epochs above 0 in rising order, each given once, "
                f"got {list(self.milestones)}."
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
            falls = step / (self.decay_epochs * self.steps_per_epoch)
            return float(self.gamma ** (int(falls) if self.staircase else falls))
        if self.name == "steps":
            return float(self.gamma ** sum(step >= round(epoch * self.steps_per_epoch) for epoch in self.milestones))
        return 1.0


def create_schedule(config: Mapping[str, Any], steps_per_epoch: int, epochs: int) -> Schedule:
    """Builds the schedule of a config: ``name`` and the keys that :class:`Schedule` documents for it.

    Raises:
        UserError: The name is unknown, the warm-up does not fit into the run, or the falls are not in order.
    """
    return Schedule(steps_per_epoch=steps_per_epoch, epochs=epochs, **config)
