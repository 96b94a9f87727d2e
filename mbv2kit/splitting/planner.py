"""Searches for the plan that fits a memory budget with the least recomputation."""

from collections.abc import Iterator
from functools import cached_property

import torch

from mbv2kit.errors import UserError
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting.chain import BlockSpec
from mbv2kit.splitting.cost import Candidate, CostModel
from mbv2kit.splitting.plan import MemoryPlan, Segment

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


def plan_memory(
    model: VisionModel, size: tuple[int, int], budget_bytes: int, dtype: torch.dtype = torch.float32
) -> MemoryPlan:
    """Plans how to run a model within a memory budget, with the least recomputation.

    The plan recomputes the fewest multiply-adds of all that fit and, among those, has the fewest steps (groups over all
    bands). Groups of channels recompute nothing and are preferred; bands of rows recompute what they share. The plan
    is not the fastest: many small groups may take longer than a little recomputation.

    Args:
        model: A MobileNetV2 with any heads.
        size: Height and width of the input.
        budget_bytes: Most bytes that may be alive at once.
        dtype: Type of the activations. ``torch.int8`` plans for 8-bit activations, summed over groups in 32 bits.

    Raises:
        UserError: No plan fits the budget, or the network cannot be split.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}.")
    planner = Planner(model, size, dtype)
    plan = planner.plan(budget_bytes)
    if plan is None:
        raise UserError(
            f"{budget_bytes:,} bytes are too few for {size[0]} x {size[1]} pixels: no plan needs fewer than "
            f"{planner.smallest():,}. Use a larger budget or a smaller input."
        )
    return plan


def plan_evenly(
    model: VisionModel, size: tuple[int, int], groups: int, dtype: torch.dtype = torch.float32
) -> MemoryPlan:
    """Plans the same number of groups for every block, without bands.

    Args:
        model: A MobileNetV2 with any heads; a block whose wide map a head reads is not split.
        size: Height and width of the input.
        groups: t in the paper; a block with fewer wide channels runs them one at a time.
        dtype: Type of the activations; see :func:`plan_memory`.

    Raises:
        UserError: The network cannot be split.
    """
    return Planner(model, size, dtype).evenly(groups)


def smallest_peak(model: VisionModel, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> int:
    """Returns the smallest budget in bytes for which there is a plan; see :func:`plan_memory` for the arguments."""
    return Planner(model, size, dtype).smallest()


class Planner:
    """Enumerates the ways to run each stretch of blocks and combines them into plans.

    Args:
        model: A MobileNetV2 with any heads.
        size: Height and width of the input.
        dtype: Type of the activations.

    Raises:
        UserError: The network cannot be split.
    """

    def __init__(self, model: VisionModel, size: tuple[int, int], dtype: torch.dtype) -> None:
        self.size, self.dtype = size, dtype
        self.cost_model = CostModel(model, size, dtype)
        self.blocks = self.cost_model.blocks
        self.madds = sum(block.madds(range(block.output_size[0])) for block in self.blocks)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """All ways to run one block or several consecutive ones, the fewest multiply-adds first."""
        return sorted(self._candidates(), key=lambda candidate: candidate.madds)

    def plan(self, budget: int) -> MemoryPlan | None:
        """Returns the best plan within a budget in bytes, or None if there is none."""
        last_groups, last_peak = self._last(budget)
        if last_peak > budget:
            return None
        # The best way to run all blocks before each index: (multiply-adds, steps, segments).
        best: dict[int, tuple[int, int, tuple[Segment, ...]]] = {0: (0, 0, ())}
        by_start: dict[int, list[Segment]] = {}
        for candidate in self.candidates:
            if (segment := self._within(candidate, budget)) is not None:
                by_start.setdefault(candidate.first, []).append(segment)
        for start in range(len(self.blocks)):
            if start not in best:
                continue
            madds, steps, segments = best[start]
            for segment in by_start.get(start, ()):
                way = madds + segment.madds, steps + self._steps(segment), (*segments, segment)
                end = segment.last + 1
                if end not in best or way[:2] < best[end][:2]:
                    best[end] = way
        if len(self.blocks) not in best:
            return None
        return self._plan(best[len(self.blocks)][2], last_groups, last_peak)

    def evenly(self, groups: int) -> MemoryPlan:
        """Returns the plan of :func:`plan_evenly`."""
        segments = []
        for index, block in enumerate(self.blocks):
            candidate = self.cost_model.candidate(index, index, block.output_size[0], False)
            count = 1 if block.read_expansion else min(groups, block.wide_channels)
            segments.append(self._segment(candidate, [count]))
        last_groups, last_peak = self.cost_model.last(min(groups, self._last_channels))
        return self._plan(tuple(segments), last_groups, last_peak)

    def smallest(self) -> int:
        """Returns the smallest budget in bytes for which there is a plan, by bisection over the possible peaks."""
        _, last = self._last(0)
        peaks = sorted({candidate.least for candidate in self.candidates} | {last})
        low, high = 0, len(peaks) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.plan(peaks[middle]) else (middle + 1, high)
        return peaks[low]

    def _plan(self, segments: tuple[Segment, ...], last_groups: int, last_peak: int) -> MemoryPlan:
        return MemoryPlan(
            size=self.size,
            dtype=self.dtype,
            names=tuple(block.name for block in self.blocks),
            heights=tuple(block.output_size[0] for block in self.blocks),
            segments=segments,
            last_groups=last_groups,
            last_peak=last_peak,
            madds=self.madds,
        )

    def _candidates(self) -> Iterator[Candidate]:
        for first, block in enumerate(self.blocks):
            yield self.cost_model.candidate(first, first, block.output_size[0], False)
            for last in range(first, len(self.blocks)):
                inner = self.blocks[first : last + 1]
                # A map that a head reads must be held as a whole; bands of dilated blocks share almost all rows.
                if any(u.rows[1].dilation > 1 or u.read_expansion for u in inner) or any(u.read for u in inner[:-1]):
                    break
                height = self.blocks[last].output_size[0]
                for rows in _band_heights(height):
                    for keep in (False, True) if last > first else (False,):
                        yield self.cost_model.candidate(first, last, rows, keep)

    def _within(self, candidate: Candidate, budget: int) -> Segment | None:
        """Chooses the fewest groups for each block that fit the budget; returns None if nothing fits."""
        if candidate.least > budget:
            return None
        groups = []
        for block, costs in zip(self._blocks_of(candidate), candidate.costs, strict=True):
            wide = block.wide_channels
            if max(cost.fixed + wide * cost.channel for cost in costs) <= budget:
                groups.append(1)
            elif block.read_expansion:
                return None
            else:
                at_once = min((budget - cost.fixed - cost.sums) // cost.channel for cost in costs)
                groups.append(-(-wide // at_once))
        return self._segment(candidate, groups)

    def _segment(self, candidate: Candidate, groups: list[int]) -> Segment:
        peak, counts = candidate.between, []
        for block, costs, count in zip(self._blocks_of(candidate), candidate.costs, groups, strict=True):
            share = -(-block.wide_channels // count)
            # Rounding up the size of a group may leave fewer groups.
            counts.append(-(-block.wide_channels // share))
            peak = max(peak, *(d.fixed + share * d.channel + (d.sums if counts[-1] > 1 else 0) for d in costs))
        return Segment(
            candidate.first, candidate.last, candidate.rows, candidate.keep, tuple(counts), peak, candidate.madds
        )

    def _steps(self, segment: Segment) -> int:
        """Returns how many groups run in total."""
        return -(-self.blocks[segment.last].output_size[0] // segment.rows) * sum(segment.groups)

    def _blocks_of(self, candidate: Candidate) -> tuple[BlockSpec, ...]:
        return self.blocks[candidate.first : candidate.last + 1]

    def _last(self, budget: int) -> tuple[int, int]:
        """Returns the fewest groups of the last convolution that fit the budget, else the most; and their peak."""
        for groups in range(1, self._last_channels):
            if self.cost_model.last(groups)[1] <= budget:
                return self.cost_model.last(groups)
        return self.cost_model.last(self._last_channels)

    @property
    def _last_channels(self) -> int:
        """Largest number of groups of the last convolution."""
        chain = self.cost_model.chain
        return chain.last[1].conv.out_channels if chain.last and chain.pools else 1


def _band_heights(height: int) -> list[int]:
    """Returns the heights that cut a map into 2, 3, 4 ... bands, down to single rows."""
    return sorted({-(-height // bands) for bands in range(2, height + 1)})
