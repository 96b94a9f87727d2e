"""Predicts how much memory blocks, the last convolution and the heads take.

The uint8 image, the raw outputs of the heads and every tensor in between count; weights and the workspace of kernels do
not.
"""

from dataclasses import dataclass

import torch

from mbv2kit.models.vision_model import VisionModel, copy_to_meta
from mbv2kit.splitting.bands import BandStep, schedule
from mbv2kit.splitting.block import frame_of
from mbv2kit.splitting.chain import BlockSpec, find_chain
from mbv2kit.splitting.memory_probe import MemoryProbe

# A split block of 8-bit activations adds up its groups in 32 bits.
_ACCUMULATOR_BYTES = 4


@dataclass(frozen=True, slots=True)
class BandCost:
    """Memory of a block in one band, in bytes.

    Attributes:
        fixed: Independent of the groups.
        channel: For each wide channel of a group.
        sums: On top if the block is split.
    """

    fixed: int
    channel: int
    sums: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A segment whose groups are still to be chosen.

    Attributes:
        first: Index of the first block.
        last: Index of the last block.
        rows: Output rows of the last block in a band.
        keep: Whether each band saves the rows that the next band shares.
        costs: For each block, its distinct costs over all bands.
        between: Peak in bytes while no block runs.
        least: Peak in bytes with one wide channel at a time.
        madds: Multiply-adds.
    """

    first: int
    last: int
    rows: int
    keep: bool
    costs: tuple[tuple[BandCost, ...], ...]
    between: int
    least: int
    madds: int


class CostModel:
    """Counts the bytes that the parts of a model need for one image.

    Args:
        model: A MobileNetV2 with any heads.
        size: Height and width of the input.
        dtype: Type of the activations.

    Attributes:
        chain: The parts of the model.
        blocks: The bottleneck blocks.

    Raises:
        UserError: The network cannot be split.
    """

    def __init__(self, model: VisionModel, size: tuple[int, int], dtype: torch.dtype) -> None:
        self.chain = find_chain(model, size)
        self.blocks = self.chain.blocks
        self._heads = model.heads
        self._dtype, self._bytes = dtype, dtype.itemsize
        self._head_peaks: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
        # For each number of finished blocks, the bytes of the uint8 image and of the maps that heads read.
        self._held = [3 * size[0] * size[1]]
        for block in self.blocks:
            self._held.append(self._held[-1] + self._read(block))

    def candidate(self, first: int, last: int, rows: int, keep: bool) -> Candidate:
        """Returns the costs of blocks that run in bands; arguments as in :func:`~mbv2kit.splitting.bands.schedule`."""
        blocks = self.blocks[first : last + 1]
        # Most bands cost the same: a dict keeps the distinct costs in order.
        costs: list[dict[BandCost, None]] = [{} for _ in blocks]
        between = madds = 0
        # The image and maps that heads read are counted in _held.
        source = 0 if first == 0 or self.blocks[first - 1].read else self._input(blocks[0], blocks[0].rows[0].size)
        output = 0 if blocks[-1].read else self._map(blocks[-1], blocks[-1].output_size[0])
        still = self._held[last + 1] + source + output
        for band in schedule(blocks, rows, keep):
            # Saved rows: of the previous band for blocks that have yet to run, of this band for those that have run.
            left = [self._input(block, len(step.reused)) for block, step in zip(blocks, band, strict=True)]
            buffers = [self._input(block, len(step.input)) for block, step in zip(blocks, band, strict=True)]
            buffers[0] = self._frame(blocks[0], band[0]) if blocks[0].first and band[0].output else 0
            for place, (block, step) in enumerate(zip(blocks, band, strict=True)):
                following = buffers[place + 1] if place + 1 < len(blocks) else 0
                between = max(between, still + sum(left) + buffers[place] + following)
                if place + 1 < len(blocks):
                    left[place + 1] = 0
                there = still + sum(left) + buffers[place] + following
                if step.output:
                    costs[place][self._band_cost(block, step, there)] = None
                    madds += block.madds(step.output)
                if place:
                    left[place] = self._input(block, len(step.saved))
                    between = max(between, there + left[place])
        least = max(
            cost.fixed + (block.wide_channels if block.read_expansion else 1) * cost.channel + cost.sums
            for block, group in zip(blocks, costs, strict=True)
            for cost in group
        )
        return Candidate(
            first, last, rows, keep, tuple(tuple(group) for group in costs), between, max(between, least), madds
        )

    def last(self, groups: int) -> tuple[int, int]:
        """Returns the actual number of groups of the last convolution, and the peak from there to the raw outputs."""
        block = self.blocks[-1]
        held = self._held[-1]
        if self.chain.last is None:
            return 1, held + self._head_peak({})
        name, layer = self.chain.last
        channels = layer.conv.out_channels
        height, width = block.output_size
        # A map that a head reads is counted in _held.
        source = 0 if block.read else self._map(block, height)
        share = -(-channels // groups)
        if self.chain.pools:
            # The mean of the last group is computed while the group is held.
            convolving = (channels + share * (height * width + 1)) * self._bytes
            after = self._head_peak({name: (channels, 1, 1)})
        else:
            convolving = channels * height * width * self._bytes
            after = self._head_peak({name: (channels, height, width)})
        return -(-channels // share), held + max(source + convolving, after)

    def _band_cost(self, block: BlockSpec, step: BandStep, fixed: int) -> BandCost:
        wide = len(block.rows[1].needed(step.output)) * block.columns[0].output
        height, width = len(step.output), block.output_size[1]
        deep = height * width
        sums = _ACCUMULATOR_BYTES * block.out_channels * deep if self._dtype == torch.int8 else 0
        # A wide map that a head reads is counted in _held.
        return BandCost(fixed, (wide * (not block.read_expansion) + deep) * self._bytes, sums)

    def _read(self, block: BlockSpec) -> int:
        """Returns the bytes of the block's maps that heads read."""
        height, width = block.output_size
        expansion = block.wide_channels * block.rows[0].output * block.columns[0].output
        return self._bytes * (block.read * block.out_channels * height * width + block.read_expansion * expansion)

    def _head_peak(self, last: dict[str, tuple[int, ...]]) -> int:
        """Returns the peak of the heads in bytes, including the map ``last``, which _held does not count."""
        key = tuple(last.items())
        if key not in self._head_peaks:
            self._head_peaks[key] = self._measure_heads(last)
        return self._head_peaks[key]

    def _measure_heads(self, last: dict[str, tuple[int, ...]]) -> int:
        shapes: dict[str, tuple[int, ...]] = {}
        for block in self.blocks:
            if block.read:
                shapes[block.name] = (block.out_channels, *block.output_size)
            if block.read_expansion:
                shapes[f"{block.name}_expansion"] = (block.wide_channels, block.rows[0].output, block.columns[0].output)
        maps = {name: torch.empty(1, *shape, device="meta") for name, shape in (shapes | last).items()}
        heads = copy_to_meta(self._heads).values()
        # All raw outputs are held until the last head has run.
        raw = []
        with torch.no_grad(), torch.device("meta"), MemoryProbe(maps[name] for name in last) as probe:
            for head in heads:
                raw.append(head(maps))
        return int(probe.peak) // torch.float32.itemsize * self._bytes

    def _frame(self, block: BlockSpec, step: BandStep) -> int:
        lines, columns = frame_of(block, step.output)
        return 3 * len(lines) * len(columns) * self._bytes

    def _input(self, block: BlockSpec, rows: int) -> int:
        return block.in_channels * rows * block.columns[0].size * self._bytes

    def _map(self, block: BlockSpec, rows: int) -> int:
        return block.out_channels * rows * block.output_size[1] * self._bytes
