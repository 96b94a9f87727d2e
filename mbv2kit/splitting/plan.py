"""Memory plans: into how many groups and bands each block is split, and what that costs."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive blocks that run band by band; a single block may also run in one band.

    Attributes:
        first: Index of the first block.
        last: Index of the last block.
        rows: Output rows of the last block in a band.
        keep: Whether each band saves the rows that the next band shares; otherwise they are computed again.
        groups: For each block, the number of groups of its wide channels, t in the paper.
        peak: Most bytes alive at once.
        madds: Multiply-adds.
    """

    first: int
    last: int
    rows: int
    keep: bool
    groups: tuple[int, ...]
    peak: int
    madds: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model runs within a budget, for one image at a time.

    Attributes:
        size: Height and width of the input.
        dtype: Type of the activations.
        names: Names of the blocks.
        heights: Output rows of the blocks.
        segments: How the blocks run.
        last_groups: Number of groups of the last convolution's channels.
        last_peak: Most bytes alive at once from the last convolution to the raw outputs of the heads.
        madds: Multiply-adds of the blocks if nothing is computed twice.
    """

    size: tuple[int, int]
    dtype: torch.dtype
    names: tuple[str, ...]
    heights: tuple[int, ...]
    segments: tuple[Segment, ...]
    last_groups: int
    last_peak: int
    madds: int

    @property
    def peak(self) -> int:
        """Most bytes alive at once."""
        return max(self.last_peak, *(segment.peak for segment in self.segments))

    @property
    def recomputed(self) -> float:
        """Multiply-adds that are computed twice, as a share of ``madds``."""
        return sum(segment.madds for segment in self.segments) / self.madds - 1

    def describe(self) -> list[str]:
        """Returns the plan as lines of text."""
        lines = [f"Plan for {self.size[0]} x {self.size[1]}: {self.peak:,} bytes, {self.recomputed:.1%} recomputed"]
        for segment in self.segments:
            names = self.names[segment.first : segment.last + 1]
            blocks = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            height = self.heights[segment.last]
            bands = -(-height // segment.rows)
            shared = ", shared rows saved" if segment.keep else ", shared rows recomputed"
            how = f"{bands} bands of {segment.rows} rows{shared if bands > 1 else ''}, " if bands > 1 else ""
            groups = ", ".join(map(str, segment.groups))
            lines.append(f"  {blocks}: {how}t = {groups}; {segment.peak:,} bytes")
        lines.append(f"  then to the outputs: t = {self.last_groups}; {self.last_peak:,} bytes")
        return lines
