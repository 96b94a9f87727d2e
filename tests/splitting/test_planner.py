"""Compares the memory of each part of a plan with what runs, and the choice of plans with a plain search."""

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting import SplitSession
from mbv2kit.splitting.chain import find_chain
from mbv2kit.splitting.cost import BandCost, Candidate
from mbv2kit.splitting.memory_probe import MemoryProbe
from mbv2kit.splitting.plan import MemoryPlan, Segment
from mbv2kit.splitting.planner import Planner
from tests.splitting.models import build

SIZE = (33, 48)
# Task, head and backbone: one that reads the last map through its mean, maps in the middle, wide maps, dilated blocks.
MODELS: dict[str, tuple[Any, Mapping[str, Any], Mapping[str, Any]]] = {
    "classifier": ("classification", {"name": "classifier"}, {}),
    "tf_same": ("classification", {"name": "classifier"}, {"padding": "tf_same"}),
    "ssdlite": ("detection", {"name": "ssdlite", "maps": ["layer_5", "layer_19"]}, {}),
    "wide maps": ("detection", {"name": "ssdlite", "maps": ["layer_8_expansion", "layer_15_expansion"]}, {}),
    "dilated": ("segmentation", {"name": "deeplab_v3"}, {"output_stride": 8}),
    "no last": ("segmentation", {"name": "deeplab_v3", "feature": "layer_14"}, {}),
}


def model_of(name: str, classes: int = 10) -> VisionModel:
    task, head, backbone = MODELS[name]
    return build(task, head, classes, width=0.35, **backbone)


class Probed(SplitSession):
    """Records the most bytes alive while each segment runs, and from the last convolution on."""

    def __init__(self, model: VisionModel, plan: MemoryPlan) -> None:
        super().__init__(model, plan)
        self.peaks: list[int] = []

    def peaks_on(self, images: Tensor) -> list[int]:
        with MemoryProbe([images]) as self._probe:
            self.compute(images)
        return [*self.peaks, self._probe.peak]

    def _run(self, *args: Any) -> Tensor:
        self._probe.peak = self._probe.current
        output = super()._run(*args)
        self.peaks.append(self._probe.peak)
        return output

    def _run_last(self, map: Tensor) -> Tensor:
        self._probe.peak = self._probe.current
        return super()._run_last(map)


def in_three_groups(planner: Planner, chosen: list[Candidate]) -> MemoryPlan:
    """The plan that runs each block of some candidates in three groups, with what their costs add up to."""
    segments = []
    for each in chosen:
        blocks = planner.blocks[each.first : each.last + 1]
        groups = tuple(1 if block.read_expansion else 3 for block in blocks)
        shares = [-(-block.wide_channels // count) for block, count in zip(blocks, groups, strict=True)]
        peaks = [
            cost.fixed + share * cost.channel for share, costs in zip(shares, each.costs, strict=True) for cost in costs
        ]
        segments.append(
            Segment(each.first, each.last, each.rows, each.keep, groups, max(each.between, *peaks), each.madds)
        )
    last_groups, last_peak = planner.cost_model.last(3)
    return MemoryPlan(
        size=planner.size,
        dtype=planner.dtype,
        names=tuple(block.name for block in planner.blocks),
        heights=tuple(block.output_size[0] for block in planner.blocks),
        segments=tuple(segments),
        last_groups=last_groups,
        last_peak=last_peak,
        madds=planner.madds,
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_part_of_a_plan_needs_what_is_predicted(name: str) -> None:
    model = model_of(name)
    planner = Planner(model, SIZE, torch.float32)
    plans = [planner.evenly(groups) for groups in (1, 5)]
    plans += [plan for share in (0.8, 0.6) if (plan := planner.plan(int(share * plans[0].peak)))]
    chance = random.Random(0)
    for long in (False, False, True, True):
        chosen: list[Candidate] = []
        while (start := chosen[-1].last + 1 if chosen else 0) < len(planner.blocks):
            ways = [each for each in planner.candidates if each.first == start]
            # Three blocks or more, which save rows, are rare among all.
            kept = [each for each in ways if each.keep and each.last > start + 1]
            chosen.append(chance.choice(kept if long and kept else ways))
        plans.append(in_three_groups(planner, chosen))
    images = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    for plan in plans:
        measured = Probed(model, plan).peaks_on(images)
        assert measured[:-1] == [segment.peak for segment in plan.segments]
        if planner.cost_model.chain.last is not None:
            assert measured[-1] == plan.last_peak
        assert plan.peak == max(*[segment.peak for segment in plan.segments], plan.last_peak)


def fewest_groups(costs: tuple[BandCost, ...], wide: int, budget: int) -> int:
    """Tries one group, two groups and so on."""
    return next(
        groups
        for groups in range(1, wide + 1)
        if all(c.fixed + -(-wide // groups) * c.channel + (groups > 1) * c.sums <= budget for c in costs)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("name", ["classifier", "ssdlite"])
def test_a_plan_recomputes_least_and_then_has_the_fewest_steps(name: str, dtype: torch.dtype) -> None:
    planner = Planner(model_of(name), (32, 32), dtype)
    least = planner.smallest()
    assert planner.plan(least - 1) is None
    for budget in (least, int(1.1 * least), int(1.5 * least), 3 * least, 30 * least):
        plan = planner.plan(budget)
        assert plan is not None
        assert plan.peak <= budget

        def steps(candidate: Candidate, budget: int = budget) -> int:
            blocks = planner.blocks[candidate.first : candidate.last + 1]
            groups = [
                fewest_groups(costs, block.wide_channels, budget)
                for block, costs in zip(blocks, candidate.costs, strict=True)
            ]
            return sum(groups) * len(range(0, blocks[-1].output_size[0], candidate.rows))

        @cache
        def best(start: int, budget: int = budget) -> tuple[float, float]:
            """The multiply-adds and steps of the best way to run the blocks from ``start`` on."""
            if start == len(planner.blocks):
                return 0, 0
            ways = []
            for each in planner.candidates:
                if each.first == start and each.least <= budget:
                    madds, later = best(each.last + 1)
                    ways.append((each.madds + madds, steps(each) + later))
            return min(ways, default=(float("inf"), 0))

        madds = sum(segment.madds for segment in plan.segments)
        chosen = [
            sum(segment.groups) * len(range(0, plan.heights[segment.last], segment.rows)) for segment in plan.segments
        ]
        assert (madds, sum(chosen)) == best(0)
        assert plan.recomputed == pytest.approx(madds / planner.madds - 1)


def test_outputs_may_need_more_than_all_blocks() -> None:
    planner = Planner(model_of("classifier", classes=10_000), (32, 32), torch.float32)
    least = planner.smallest()
    plan = planner.plan(least)
    assert plan is not None
    assert plan.last_peak == least == plan.peak > max(segment.peak for segment in plan.segments)
    # Image, means of the last map, the head's mean of these, and logits.
    assert least == 3 * 32 * 32 + 4 * (1280 + 1280 + 10_000)
    assert planner.plan(least - 1) is None


def test_the_last_convolution_has_the_fewest_groups_that_fit() -> None:
    planner = Planner(model_of("classifier"), (96, 96), torch.float32)
    peaks = {planner.cost_model.last(groups)[0]: planner.cost_model.last(groups)[1] for groups in range(1, 41)}
    # Image, input of 112 channels of 3 x 3 pixels, means of all channels, and a group with its own means.
    assert peaks[1] == 3 * 96 * 96 + 4 * (112 * 9 + 1280 + 1280 * (9 + 1))
    assert peaks[5] == 3 * 96 * 96 + 4 * (112 * 9 + 1280 + 256 * (9 + 1))
    # Groups of 183 channels: seven, of which the last is smaller.
    assert peaks[7] == 3 * 96 * 96 + 4 * (112 * 9 + 1280 + 183 * (9 + 1))
    for budget in (200_000, 100_000, 80_000):
        plan = planner.plan(budget)
        assert plan is not None
        fitting = [groups for groups, peak in peaks.items() if peak <= budget]
        assert (plan.last_groups, plan.last_peak) == (min(fitting), peaks[min(fitting)])


def test_the_costs_of_a_block_are_counted_by_hand() -> None:
    for dtype, size, sums in ((torch.float32, 4, 0), (torch.float16, 2, 0), (torch.int8, 1, 4 * 16 * 12 * 12)):
        planner = Planner(model_of("classifier"), (96, 96), dtype)
        # layer_5: 8 channels of 24 x 24, 48 wide channels, 16 channels of 12 x 12.
        place = [block.name for block in planner.blocks].index("layer_5")
        candidate = planner.cost_model.candidate(place, place, 12, False)
        fixed = 3 * 96 * 96 + size * (8 * 24 * 24 + 16 * 12 * 12)
        channel = size * (24 * 24 + 12 * 12)
        assert candidate.costs == ((BandCost(fixed, channel, sums),),)
        assert candidate.least == fixed + channel + sums
        assert candidate.madds == 24 * 24 * 8 * 48 + 12 * 12 * 48 * (9 + 16)
        # Sums are held where there is more than one group to add up.
        peaks = [planner.evenly(groups).segments[place].peak for groups in (1, 3)]
        assert peaks == [fixed + 48 * channel, fixed + 16 * channel + sums]
        # Bands of 6 rows need the rows 0..11 and 11..23 of the wide map.
        halves = planner.cost_model.candidate(place, place, 6, False)
        costs = [BandCost(fixed, size * (rows * 24 + 6 * 12), sums // 2) for rows in (12, 13)]
        assert halves.costs == (tuple(costs),)
        assert halves.least == fixed + costs[1].channel + costs[1].sums
        assert halves.madds == candidate.madds + 24 * 8 * 48


def test_two_blocks_hold_what_lies_between_them() -> None:
    planner = Planner(model_of("classifier"), (96, 96), torch.float32)
    # layer_6 and layer_7: 16 channels of 12 x 12 throughout, 96 wide channels.
    place = [block.name for block in planner.blocks].index("layer_6")
    row = 4 * 12
    whole = 3 * 96 * 96 + 2 * 12 * 16 * row
    between = 7 * 16 * row
    wide, deep = 12 * 16 * 96, 12 * 96 * (9 + 16)
    # The second block reads rows 0..6 and 5..11 of the first, which reads 0..7 and 4..11.
    again = planner.cost_model.candidate(place, place + 1, 6, False)
    first, second = BandCost(whole + between, (8 + 7) * row, 0), BandCost(whole + between, (7 + 6) * row, 0)
    assert again.costs == ((first,), (second,))
    assert (again.between, again.least) == (whole + between, first.fixed + first.channel)
    assert again.madds == 2 * ((8 + 7) * wide + (7 + 6) * deep)
    # Rows 5 and 6 are saved; the first block computes 7..11 in the second band, from 6..11.
    saved = planner.cost_model.candidate(place, place + 1, 6, True)
    assert saved.costs == ((first, BandCost(whole + between, (6 + 5) * row, 0)), (second,))
    assert saved.between == saved.least == whole + between + 2 * 16 * row
    assert saved.madds == (8 + 6 + 7 + 7) * wide + (7 + 5 + 6 + 6) * deep


def test_a_block_has_as_many_groups_as_it_fills() -> None:
    planner = Planner(model_of("classifier"), (32, 32), torch.float32)
    counts = [segment.groups for segment in planner.evenly(7).segments]
    for block, (count,) in zip(planner.blocks, counts, strict=True):
        # Groups of as many channels as seven need: 16 channels in groups of three fill six.
        share = next(share for share in range(1, 1000) if share * 7 >= block.wide_channels)
        assert count == len(range(0, block.wide_channels, share))
    assert [segment.groups for segment in planner.evenly(10_000).segments] == [
        (block.wide_channels,) for block in planner.blocks
    ]
    assert planner.evenly(10_000).last_groups == 1280


def test_a_plan_knows_the_height_of_every_block() -> None:
    heights = Planner(model_of("classifier"), SIZE, torch.float32).evenly(1).heights
    assert heights == (17, *[9] * 2, *[5] * 3, *[3] * 7, *[2] * 4)


def test_a_plan_reads_as_text() -> None:
    segments = (
        Segment(0, 1, rows=3, keep=True, groups=(2, 4), peak=1500, madds=900),
        Segment(2, 2, rows=4, keep=False, groups=(1,), peak=1200, madds=200),
        Segment(3, 3, rows=1, keep=False, groups=(5,), peak=1000, madds=150),
    )
    plan = MemoryPlan((64, 48), torch.float32, ("a", "b", "c", "d"), (16, 8, 4, 2), segments, 6, 700, 1000)
    assert (plan.peak, plan.recomputed) == (1500, 0.25)
    assert plan.describe() == [
        "Plan for 64 x 48: 1,500 bytes, 25.0% recomputed",
        "  a to b: 3 bands of 3 rows, shared rows saved, t = 2, 4; 1,500 bytes",
        "  c: t = 1; 1,200 bytes",
        "  d: 2 bands of 1 rows, shared rows recomputed, t = 5; 1,000 bytes",
        "  then to the outputs: t = 6; 700 bytes",
    ]


def test_the_last_map_is_held_as_a_whole_unless_every_head_reads_its_mean_only() -> None:
    spec = model_of("classifier").spec
    detector = model_of("ssdlite").spec
    both = VisionModel(
        replace(spec, heads={**spec.heads, **detector.heads}, class_names={**spec.class_names, **detector.class_names})
    )
    pools = [find_chain(model, SIZE).pools for model in (model_of("classifier"), model_of("ssdlite"), both)]
    assert pools == [True, False, False]
    assert find_chain(model_of("no last"), SIZE).last is None


def test_stretches_of_blocks_end_where_a_head_reads() -> None:
    planner = Planner(model_of("ssdlite"), SIZE, torch.float32)
    read = [block.name for block in planner.blocks].index("layer_5")
    stretches = {(each.first, each.last) for each in planner.candidates}
    assert {(read - 1, read), (read + 1, read + 2)} <= stretches
    assert not [each for each in stretches if each[0] <= read < each[1]]
    planner = Planner(model_of("wide maps"), SIZE, torch.float32)
    read = [block.name for block in planner.blocks].index("layer_8")
    whole = [each for each in planner.candidates if each.first <= read <= each.last]
    assert [(each.first, each.last, each.rows) for each in whole] == [(read, read, 3)]
    assert (read - 2, read - 1) in {(each.first, each.last) for each in planner.candidates}


def test_bands_have_each_height_that_is_the_least_for_its_number_of_bands() -> None:
    planner = Planner(model_of("classifier"), (64, 160), torch.float32)
    found: dict[tuple[int, int], set[int]] = {}
    for each in planner.candidates:
        found.setdefault((each.first, each.last), set()).add(each.rows)
    for (first, last), rows in found.items():
        height = planner.blocks[last].output_size[0]
        counts = [len(range(0, height, tall)) for tall in range(1, height)]
        bands = {tall for tall, count in enumerate(counts, 1) if count not in counts[: tall - 1]}
        # A single block may also run as a whole.
        assert rows == (bands | {height} if first == last else bands)
    # Two bands of several blocks share rows between the blocks, which may be saved.
    assert {each.keep for each in planner.candidates if each.first == each.last} == {False}
    assert {each.keep for each in planner.candidates if each.first < each.last} == {False, True}
