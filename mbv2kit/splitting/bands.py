"""A few blocks in bands of rows: what each block computes in each band, and what it keeps for the next."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbv2kit.splitting.chain import Unit

NOTHING = range(0)


@dataclass(frozen=True, slots=True)
class Part:
    """What one block does in one band.

    Attributes:
        output: Rows of its output that are computed.
        input: Rows of its input that they look at.
        kept: Those rows of the input that the band before has left; the block before computes the others.
        keeps: Rows of the input that are left for the next band.
    """

    output: range
    input: range
    kept: range
    keeps: range


def schedule(units: Sequence[Unit], rows: int, keep: bool) -> list[list[Part]]:
    """Cuts the output of some blocks into bands, and says for each band what each block has to do for it.

    The first block's input is there as a whole. Between the blocks only the rows that a band needs are there. The rows
    that two bands share are computed twice, or, with ``keep``, left from one band to the next; what is computed twice
    then is the wide map of a row or two in each block.

    Args:
        units: Blocks that follow one another.
        rows: Of the last block's output in a band; the last band may have fewer.
        keep: Whether bands leave rows to the next.

    Returns:
        For each band a part for each block.
    """
    height = units[-1].output_size[0]
    # Rows of each block's output that were computed so far.
    done = [0] * len(units)
    bands: list[list[tuple[range, range, range]]] = []
    for top in range(0, height, rows):
        wanted = range(top, min(height, top + rows))
        band = []
        for place in reversed(range(len(units))):
            output = wanted
            input = units[place].needed(output) if output else NOTHING
            kept = range(input.start, min(input.stop, done[place - 1])) if keep and place else NOTHING
            if not kept:
                kept = NOTHING
            wanted = range(kept.stop, input.stop) if kept else input
            band.append((output, input, kept))
            done[place] = max(done[place], output.stop)
        bands.append(band[::-1])
    following = [[kept for _, _, kept in band] for band in bands[1:]] + [[NOTHING] * len(units)]
    return [
        [Part(*part, keeps) for part, keeps in zip(band, next_kept, strict=True)]
        for band, next_kept in zip(bands, following, strict=True)
    ]
