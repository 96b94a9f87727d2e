"""Medians, quartiles and paired ratios of measurements in rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

# A competitor has settled when the medians of this many consecutive turns differ by at most this share.
SETTLED_TURNS = 3
SETTLED_SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of some values."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns the median and quartiles, linearly interpolated."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high)


def paired(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divides round by round, which cancels what varies between rounds, such as the clock rate of the processor."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def settled(medians: Sequence[float]) -> bool:
    """Returns whether the last turns of a warm-up agree and no earlier turn was clearly faster."""
    last = medians[-SETTLED_TURNS:]
    if len(last) < SETTLED_TURNS:
        return False
    return max(last) <= (1 + SETTLED_SPREAD) * min(last) and median(last) <= (1 + SETTLED_SPREAD) * min(medians)
