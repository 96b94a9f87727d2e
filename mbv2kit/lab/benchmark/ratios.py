"""Medians, quartiles and paired ratios of what was measured in rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

# A competitor has settled when this many turns in a row have medians that lie this close together.
SETTLED_TURNS = 3
SETTLED_SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and the quartiles between which half of them lie."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns median and quartiles, interpolated linearly between values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high)


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divides round by round: what changes from round to round, such as the clock of the processor, cancels."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def settled(medians: Sequence[float]) -> bool:
    """Whether the last turns of a warm-up agree, and none before them was clearly faster."""
    last = medians[-SETTLED_TURNS:]
    if len(last) < SETTLED_TURNS:
        return False
    return max(last) <= (1 + SETTLED_SPREAD) * min(last) and median(last) <= (1 + SETTLED_SPREAD) * min(medians)
