"""Bytes in places of known sizes, in memory or in a file, that several processes fill and share."""

import mmap
import os
import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHECKSUM = 4


class Slots:
    """A file of N slots, each with a checksum, which says whether the slot is filled.

    A process that is killed while it fills a slot leaves it empty. Processes that fill a slot at the same time must
    write the same. Copies of this object in other processes, forked or not, share the file.

    Args:
        file: Descriptor of a file that is as long as :meth:`length` says, filled with zeros at first. It is closed with
            this object.
        sizes: Bytes of each slot.
    """

    def __init__(self, file: int, sizes: Sequence[int] | NDArray[np.int64]) -> None:
        self._ends = np.cumsum(np.append(len(sizes) * _CHECKSUM, np.asarray(sizes, dtype=np.int64)))
        self._known = np.zeros(len(sizes), dtype=np.bool_)
        self._open(file)

    @staticmethod
    def length(sizes: Sequence[int] | NDArray[np.int64]) -> int:
        """Returns the bytes of a file for some slots."""
        return len(sizes) * _CHECKSUM + int(np.sum(sizes, dtype=np.int64))

    def _open(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)
        self._map = mmap.mmap(file, int(self._ends[-1]), access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        # Windows has none, and no use for it.
        from multiprocessing.reduction import DupFd

        return {"ends": self._ends, "file": DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._ends = state["ends"]
        self._known = np.zeros(len(self._ends) - 1, dtype=np.bool_)
        self._open(state["file"].detach())

    def __getitem__(self, index: int) -> NDArray[np.uint8] | None:
        """Returns the bytes of a slot, a view that cannot be written to; None if it is empty."""
        start, stop = self._ends[index : index + 2].tolist()
        content = self._bytes[start:stop]
        if not self._known[index]:
            place = index * _CHECKSUM
            if self._bytes[place : place + _CHECKSUM].tobytes() != _checksum(content):
                return None
            # What is filled stays so.
            self._known[index] = True
        return content

    def fill(self, index: int, content: NDArray[np.uint8]) -> None:
        """Fills a slot.

        Raises:
            OSError: The disk is full.
            ValueError: The content has another size.
        """
        start, stop = self._ends[index : index + 2].tolist()
        data = np.ascontiguousarray(content).reshape(-1).data
        if len(data) != stop - start:
            raise ValueError(f"slot {index} has {stop - start} bytes, got {len(data)}")
        written = 0
        while written < len(data):
            written += os.pwrite(self._file, data[written:], start + written)
        os.pwrite(self._file, _checksum(data), index * _CHECKSUM)


def _checksum(content: Any) -> bytes:
    # Zeros are the checksum of an empty slot.
    return (zlib.crc32(content) or 1).to_bytes(_CHECKSUM, "little")
