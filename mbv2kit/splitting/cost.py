"""What blocks, last convolution and heads need in memory.

What counts is every tensor between the uint8 image and the raw outputs of the heads, the image itself among them;
weights and what a kernel needs for itself do not.
"""

from dataclasses import dataclass

import torch

from mbv2kit.heads import Head
from mbv2kit.models.vision_model import VisionModel, copy_to_meta
from mbv2kit.splitting.bands import Part, schedule
from mbv2kit.splitting.block import frame_of
from mbv2kit.splitting.chain import Unit, find_chain
from mbv2kit.splitting.memory_probe import LiveBytes

# Sums over the groups of a split block need more than the 8 bits of what is summed.
_ACCUMULATOR_BYTES = 4


@dataclass(frozen=True, slots=True)
class Demand:
    """What a block needs in one band: ``fixed`` bytes, ``channel`` for each wide channel at once, ``sums`` if split."""

    fixed: int
    channel: int
    sums: int


@dataclass(frozen=True, slots=True)
class Choice:
    """A segment before its groups are chosen.

    ``between`` is the most bytes that are alive while no block runs, ``least`` the peak with a wide channel at a time.
    """

    first: int
    last: int
    rows: int
    keep: bool
    demands: tuple[tuple[Demand, ...], ...]
    between: int
    least: int
    madds: int


class Needs:
    """The bytes that parts of a model need, one image at a time.

    Args:
        model: A MobileNetV2 with any heads.
        size: Height and width of the input.
        dtype: Of the activations.

    Attributes:
        units: The bottleneck blocks.

    Raises:
        UserError: The network is none that can be split.
    """

    def __init__(self, model: VisionModel, size: tuple[int, int], dtype: torch.dtype) -> None:
        self.chain = find_chain(model, size)
        self.units = self.chain.units
        self._heads = model.heads
        self._dtype, self._bytes = dtype, dtype.itemsize
        self._head_peaks: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
        # Until a block has run: the bytes of the uint8 image and of the maps that heads read.
        self._held = [3 * size[0] * size[1]]
        for unit in self.units:
            self._held.append(self._held[-1] + self._read(unit))

    def choice(self, first: int, last: int, rows: int, keep: bool) -> Choice:
        """Works out what blocks need when they run in bands; see :func:`~mbv2kit.splitting.bands.schedule`."""
        units = self.units[first : last + 1]
        # Only what differs from band to band counts, and most bands are alike.
        demands: list[dict[Demand, None]] = [{} for _ in units]
        between = madds = 0
        # A map that a head reads is held already; the image is as well.
        source = 0 if first == 0 or self.units[first - 1].read else self._input(units[0], units[0].rows[0].size)
        output = 0 if units[-1].read else self._map(units[-1], units[-1].output_size[0])
        still = self._held[last + 1] + source + output
        for band in schedule(units, rows, keep):
            # What the band before has left, for the blocks that have not run yet; then what is left for the next.
            left = [self._input(unit, len(part.kept)) for unit, part in zip(units, band, strict=True)]
            buffers = [self._input(unit, len(part.input)) for unit, part in zip(units, band, strict=True)]
            buffers[0] = self._frame(units[0], band[0]) if units[0].first and band[0].output else 0
            for place, (unit, part) in enumerate(zip(units, band, strict=True)):
                following = buffers[place + 1] if place + 1 < len(units) else 0
                between = max(between, still + sum(left) + buffers[place] + following)
                if place + 1 < len(units):
                    left[place + 1] = 0
                there = still + sum(left) + buffers[place] + following
                if part.output:
                    demands[place][self._demand(unit, part, there)] = None
                    madds += unit.madds(part.output)
                if place:
                    left[place] = self._input(unit, len(part.keeps))
                    between = max(between, there + left[place])
        least = max(
            demand.fixed + (unit.wide_channels if unit.read_expansion else 1) * demand.channel + demand.sums
            for unit, group in zip(units, demands, strict=True)
            for demand in group
        )
        return Choice(
            first, last, rows, keep, tuple(tuple(group) for group in demands), between, max(between, least), madds
        )

    def last(self, groups: int) -> tuple[int, int]:
        """Returns the groups of the last convolution as they come out, and the peak from there to the raw outputs."""
        unit = self.units[-1]
        held = self._held[-1]
        if self.chain.last is None:
            return 1, held + self._head_peak({})
        name, part = self.chain.last
        channels = part.conv.out_channels
        height, width = unit.output_size
        # A map that a head reads is held already.
        source = 0 if unit.read else self._map(unit, height)
        share = -(-channels // groups)
        if self.chain.pools:
            # The mean over the last group is there with the group itself.
            convolving = (channels + share * (height * width + 1)) * self._bytes
            after = self._head_peak({name: (channels, 1, 1)})
        else:
            convolving = channels * height * width * self._bytes
            after = self._head_peak({name: (channels, height, width)})
        return -(-channels // share), held + max(source + convolving, after)

    def _demand(self, unit: Unit, part: Part, fixed: int) -> Demand:
        wide = len(unit.rows[1].needed(part.output)) * unit.columns[0].output
        height, width = len(part.output), unit.output_size[1]
        deep = height * width
        sums = _ACCUMULATOR_BYTES * unit.out_channels * deep if self._dtype == torch.int8 else 0
        # A wide map that a head reads is held already.
        return Demand(fixed, (wide * (not unit.read_expansion) + deep) * self._bytes, sums)

    def _read(self, unit: Unit) -> int:
        """Bytes of the unit's maps that heads read."""
        height, width = unit.output_size
        expansion = unit.wide_channels * unit.rows[0].output * unit.columns[0].output
        return self._bytes * (unit.read * unit.out_channels * height * width + unit.read_expansion * expansion)

    def _head_peak(self, last: dict[str, tuple[int, ...]]) -> int:
        """Returns the peak of the heads in bytes, with the last map's where that is not among what is held."""
        key = tuple(last.items())
        if key not in self._head_peaks:
            self._head_peaks[key] = self._measure_heads(last)
        return self._head_peaks[key]

    def _measure_heads(self, last: dict[str, tuple[int, ...]]) -> int:
        shapes: dict[str, tuple[int, ...]] = {}
        for unit in self.units:
            if unit.read:
                shapes[unit.name] = (unit.out_channels, *unit.output_size)
            if unit.read_expansion:
                shapes[f"{unit.name}_expansion"] = (unit.wide_channels, unit.rows[0].output, unit.columns[0].output)
        maps = {name: torch.empty(1, *shape, device="meta") for name, shape in (shapes | last).items()}
        heads = [head for head in copy_to_meta(self._heads).values() if isinstance(head, Head)]
        # All raw outputs stay until the last head is done.
        raw = []
        with torch.no_grad(), torch.device("meta"), LiveBytes(maps[name] for name in last) as live:
            for head in heads:
                raw.append(head(maps))
        return int(live.peak) // torch.float32.itemsize * self._bytes

    def _frame(self, unit: Unit, part: Part) -> int:
        lines, columns = frame_of(unit, part.output)
        return 3 * len(lines) * len(columns) * self._bytes

    def _input(self, unit: Unit, rows: int) -> int:
        return unit.in_channels * rows * unit.columns[0].size * self._bytes

    def _map(self, unit: Unit, rows: int) -> int:
        return unit.out_channels * rows * unit.output_size[1] * self._bytes
