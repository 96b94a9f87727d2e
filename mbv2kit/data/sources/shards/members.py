"""Places of files within tars, and blocks of files that lie next to each other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Members:
    """Files in tars, in flat arrays that worker processes share.

    Attributes:
        shards: ``(N,)`` int64, the number of the tar of each file.
        offsets: ``(N,)`` int64, first byte.
        sizes: ``(N,)`` int64, in bytes.
        digests: ``(N, 32)`` uint8, SHA-256.
    """

    shards: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    digests: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.shards)


class Blocks:
    """Ranges of tars of a few megabytes that hold whole files, by number; a range may begin within another.

    Args:
        members: The files.
        length: Bytes between the first bytes of the first and of the last file of a block, at most.

    Attributes:
        of_member: ``(N,)`` int64, the block of each file.
        shards: ``(B,)`` int64, the tar of each block.
        starts: ``(B,)`` int64, first byte.
        stops: ``(B,)`` int64, end.
    """

    def __init__(self, members: Members, length: int) -> None:
        order = np.lexsort((members.offsets, members.shards))
        shards, offsets = members.shards[order], members.offsets[order]
        parts = offsets // length
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (np.diff(shards) != 0) | (np.diff(parts) != 0)
        first = np.flatnonzero(new)
        self.of_member = np.empty(len(order), dtype=np.int64)
        self.of_member[order] = np.cumsum(new) - 1
        self.shards = shards[first]
        self.starts = offsets[first]
        self.stops = np.maximum.reduceat(offsets + members.sizes[order], first)

    def after(self, block: int, count: int) -> range:
        """Returns up to ``count`` blocks that follow one in its tar."""
        last = int(np.searchsorted(self.shards, self.shards[block], side="right"))
        return range(block + 1, min(block + 1 + count, last))
