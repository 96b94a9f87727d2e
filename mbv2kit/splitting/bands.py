"""Runs of blocks cut into bands of rows: the rows that each block computes, reads and saves in each band."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbv2kit.splitting.chain import BlockSpec

NOTHING = range(0)


@dataclass(frozen=True, slots=True)
class BandStep:
    """What one block does in one band.

    Attributes:
        output: Output rows to compute.
        input: Input rows that they depend on.
        reused: Those input rows that the previous band saved; the preceding block computes the rest.
        saved: Input rows to save for the next band.
    """

    output: range
    input: range
    reused: range
    saved: range


def schedule(blocks: Sequence[BlockSpec], rows: int, keep: bool) -> list[list[BandStep]]:
    """Cuts the output of consecutive blocks into bands and lists the work of each block in each band.

    The input of the first block is a whole map. Between the blocks only the rows of the current band exist. Rows that
    two bands share are either computed twice or, with ``keep``, saved from one band to the next; then only a row or two
    of each block's wide map are computed twice.

    Args:
        blocks: Consecutive blocks.
        rows: Output rows of the last block in a band; the last band may have fewer.
        keep: Whether each band saves the rows that the next band shares.

    Returns:
        For each band, one step for each block.
    """
    height = blocks[-1].output_size[0]
    # Output rows of each block computed so far.
    done = [0] * len(blocks)
    bands: list[list[tuple[range, range, range]]] = []
    for top in range(0, height, rows):
        wanted = range(top, min(height, top + rows))
        band = []
        for place in reversed(range(len(blocks))):
            output = wanted
            input = blocks[place].needed(output) if output else NOTHING
            reused = range(input.start, min(input.stop, done[place - 1])) if keep and place else NOTHING
            if not reused:
                reused = NOTHING
            wanted = range(reused.stop, input.stop) if reused else input
            band.append((output, input, reused))
            done[place] = max(done[place], output.stop)
        bands.append(band[::-1])
    following = [[reused for _, _, reused in band] for band in bands[1:]] + [[NOTHING] * len(blocks)]
    return [
        [BandStep(*step, saved) for step, saved in zip(band, reused_next, strict=True)]
        for band, reused_next in zip(bands, following, strict=True)
    ]
