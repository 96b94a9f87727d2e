"""What a plan of memory says: into how many groups and bands each block is split, and what that costs."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Segment:
    """Blocks that follow one another and run band by band; one block alone may be a single band.

    Attributes:
        first: Index of the first block.
        last: Index of the last block.
        rows: Of the last block's output in a band.
        keep: Whether a band leaves the rows that the next one needs as well, instead of having them computed again.
        groups: For each block into how many groups its wide channels are split, t in the paper.
        peak: Bytes that are alive at most.
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
        dtype: Of the activations.
        names: Of the blocks.
        heights: Of the blocks' outputs, in rows.
        segments: How the blocks run.
        last_groups: Into how many groups the channels of the last convolution are split.
        last_peak: Bytes that are alive at most from there to the raw outputs of the heads.
        madds: Multiply-adds of the blocks when nothing is computed twice.
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
        """Bytes that are alive at most."""
        return max(self.last_peak, *(segment.peak for segment in self.segments))

    @property
    def recomputed(self) -> float:
        """Multiply-adds that are computed again, as a share of all of the blocks."""
        return sum(segment.madds for segment in self.segments) / self.madds - 1

    def describe(self) -> list[str]:
        """Says the plan in lines for people."""
        lines = [f"Plan for {self.size[0]} x {self.size[1]}: {self.peak:,} bytes, {self.recomputed:.1%} computed again"]
        for segment in self.segments:
            names = self.names[segment.first : segment.last + 1]
            blocks = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            height = self.heights[segment.last]
            bands = -(-height // segment.rows)
            shared = ", rows kept from band to band" if segment.keep else ", shared rows computed again"
            how = f"{bands} bands of {segment.rows} rows{shared if bands > 1 else ''}, " if bands > 1 else ""
            groups = ", ".join(map(str, segment.groups))
            lines.append(f"  {blocks}: {how}t = {groups}; {segment.peak:,} bytes")
        lines.append(f"  then to the outputs: t = {self.last_groups}; {self.last_peak:,} bytes")
        return lines
