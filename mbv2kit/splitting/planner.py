"""Searches the plan that keeps a budget of memory at the least recomputation."""

from collections.abc import Iterator
from functools import cached_property

import torch

from mbv2kit.errors import UserError
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting.chain import Unit
from mbv2kit.splitting.cost import Choice, Needs
from mbv2kit.splitting.plan import MemoryPlan, Segment

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


def plan_memory(
    model: VisionModel, size: tuple[int, int], budget_bytes: int, dtype: torch.dtype = torch.float32
) -> MemoryPlan:
    """Chooses for every block how often it is split, so that a budget is kept at the least recomputation.

    Of all plans within the budget it takes one with the fewest multiply-adds computed again, and among those one with
    the fewest steps, which are the groups of all bands. Splitting by channels computes nothing again, and comes first;
    bands of rows do. It is not the quickest plan: many small groups take longer than some work done twice.

    Args:
        model: A MobileNetV2 with any heads.
        size: Height and width of the input.
        budget_bytes: What may be alive at once.
        dtype: Of the activations; ``torch.int8`` says what the same network would need with activations of 8 bits, the
            sums over the groups of a block in 32.

    Raises:
        UserError: No plan keeps the budget, or the network is none that can be split.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}.")
    planner = Planner(model, size, dtype)
    plan = planner.plan(budget_bytes)
    if plan is None:
        raise UserError(
            f"{budget_bytes:,} bytes are too few for {size[0]} x {size[1]} pixels: no plan needs fewer than "
            f"{planner.smallest():,}. Set a larger budget or a smaller input.size."
        )
    return plan


def plan_evenly(
    model: VisionModel, size: tuple[int, int], groups: int, dtype: torch.dtype = torch.float32
) -> MemoryPlan:
    """Plans that every block runs as a whole map, its wide channels in as many groups; see :func:`plan_memory`.

    Args:
        model: A MobileNetV2 with any heads; a block whose wide map a head reads is not split.
        size: Height and width of the input.
        groups: t in the paper; blocks with fewer wide channels take one at a time.
        dtype: Of the activations.

    Raises:
        UserError: The network is none that can be split.
    """
    return Planner(model, size, dtype).evenly(groups)


def smallest_peak(model: VisionModel, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> int:
    """Returns the least budget, in bytes, for which there is a plan; see :func:`plan_memory`."""
    return Planner(model, size, dtype).smallest()


class Planner:
    """Knows all ways to run each stretch of blocks, and joins them to plans.

    Args:
        model: A MobileNetV2 with any heads.
        size: Height and width of the input.
        dtype: Of the activations.

    Raises:
        UserError: The network is none that can be split.
    """

    def __init__(self, model: VisionModel, size: tuple[int, int], dtype: torch.dtype) -> None:
        self.size, self.dtype = size, dtype
        self.needs = Needs(model, size, dtype)
        self.units = self.needs.units
        self.madds = sum(unit.madds(range(unit.output_size[0])) for unit in self.units)

    @cached_property
    def choices(self) -> list[Choice]:
        """All ways to run one block or several in a row, the least recomputation first."""
        return sorted(self._choices(), key=lambda choice: choice.madds)

    def plan(self, budget: int) -> MemoryPlan | None:
        """Returns the best plan within a budget in bytes; None where there is none."""
        last_groups, last_peak = self._last(budget)
        if last_peak > budget:
            return None
        # The best way to the end of each block: (multiply-adds, steps, segments).
        best: dict[int, tuple[int, int, tuple[Segment, ...]]] = {0: (0, 0, ())}
        by_start: dict[int, list[Segment]] = {}
        for choice in self.choices:
            if (segment := self._within(choice, budget)) is not None:
                by_start.setdefault(choice.first, []).append(segment)
        for start in range(len(self.units)):
            if start not in best:
                continue
            madds, steps, segments = best[start]
            for segment in by_start.get(start, ()):
                way = madds + segment.madds, steps + self._steps(segment), (*segments, segment)
                end = segment.last + 1
                if end not in best or way[:2] < best[end][:2]:
                    best[end] = way
        if len(self.units) not in best:
            return None
        return self._plan(best[len(self.units)][2], last_groups, last_peak)

    def evenly(self, groups: int) -> MemoryPlan:
        """Returns the plan of :func:`plan_evenly`."""
        segments = []
        for index, unit in enumerate(self.units):
            choice = self.needs.choice(index, index, unit.output_size[0], False)
            count = 1 if unit.read_expansion else min(groups, unit.wide_channels)
            segments.append(self._segment(choice, [count]))
        last_groups, last_peak = self.needs.last(min(groups, self._last_channels))
        return self._plan(tuple(segments), last_groups, last_peak)

    def smallest(self) -> int:
        """The least budget for which there is a plan: one of the least peaks of its segments."""
        _, last = self._last(0)
        peaks = sorted({choice.least for choice in self.choices} | {last})
        low, high = 0, len(peaks) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.plan(peaks[middle]) else (middle + 1, high)
        return peaks[low]

    def _plan(self, segments: tuple[Segment, ...], last_groups: int, last_peak: int) -> MemoryPlan:
        return MemoryPlan(
            size=self.size,
            dtype=self.dtype,
            names=tuple(unit.name for unit in self.units),
            heights=tuple(unit.output_size[0] for unit in self.units),
            segments=segments,
            last_groups=last_groups,
            last_peak=last_peak,
            madds=self.madds,
        )

    def _choices(self) -> Iterator[Choice]:
        for first, unit in enumerate(self.units):
            yield self.needs.choice(first, first, unit.output_size[0], False)
            for last in range(first, len(self.units)):
                inner = self.units[first : last + 1]
                # A map that a head reads must be there as a whole; rows of dilated blocks hardly overlap less than all.
                if any(u.rows[1].dilation > 1 or u.read_expansion for u in inner) or any(u.read for u in inner[:-1]):
                    break
                height = self.units[last].output_size[0]
                for rows in _band_heights(height):
                    for keep in (False, True) if last > first else (False,):
                        yield self.needs.choice(first, last, rows, keep)

    def _within(self, choice: Choice, budget: int) -> Segment | None:
        """Chooses the fewest groups for each block that keep the budget; None where none do."""
        if choice.least > budget:
            return None
        groups = []
        for unit, demands in zip(self._units_of(choice), choice.demands, strict=True):
            wide = unit.wide_channels
            if max(demand.fixed + wide * demand.channel for demand in demands) <= budget:
                groups.append(1)
            elif unit.read_expansion:
                return None
            else:
                at_once = min((budget - demand.fixed - demand.sums) // demand.channel for demand in demands)
                groups.append(-(-wide // at_once))
        return self._segment(choice, groups)

    def _segment(self, choice: Choice, groups: list[int]) -> Segment:
        peak, counts = choice.between, []
        for unit, demands, count in zip(self._units_of(choice), choice.demands, groups, strict=True):
            share = -(-unit.wide_channels // count)
            # Full groups may be fewer than were asked for.
            counts.append(-(-unit.wide_channels // share))
            peak = max(peak, *(d.fixed + share * d.channel + (d.sums if counts[-1] > 1 else 0) for d in demands))
        return Segment(choice.first, choice.last, choice.rows, choice.keep, tuple(counts), peak, choice.madds)

    def _steps(self, segment: Segment) -> int:
        """How often a group of a block is run."""
        return -(-self.units[segment.last].output_size[0] // segment.rows) * sum(segment.groups)

    def _units_of(self, choice: Choice) -> tuple[Unit, ...]:
        return self.units[choice.first : choice.last + 1]

    def _last(self, budget: int) -> tuple[int, int]:
        """Returns the fewest groups of the last convolution that keep the budget, if any do, and the peak."""
        for groups in range(1, self._last_channels):
            if self.needs.last(groups)[1] <= budget:
                return self.needs.last(groups)
        return self.needs.last(self._last_channels)

    @property
    def _last_channels(self) -> int:
        """Into how many groups the last convolution can be split."""
        chain = self.needs.chain
        return chain.last[1].conv.out_channels if chain.last and chain.pools else 1


def _band_heights(height: int) -> list[int]:
    """Heights of bands that are worth a try: those that cut a map into 2, 3, 4 ... bands, down to single rows."""
    return sorted({-(-height // bands) for bands in range(2, height + 1)})
