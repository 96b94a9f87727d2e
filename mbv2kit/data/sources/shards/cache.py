"""Keeps what was read over the network in a folder of a bounded size, which any number of processes share.

A block is a file that appears in one step, so a process that is killed leaves no half of one. Its time of modification
is when it was last used; the oldest go first.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from mbv2kit.files.writing import open_atomically
from mbv2kit.models.folder_lock import held

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

_LOCK = "lock"
_writes = threading.Lock()
# Processes look at the size of the folder after they have written a hundredth of the limit, and then make room.
_LOOK, _FILLED = 0.01, 0.9


class BlockCache:
    """A folder of blocks.

    Args:
        folder: The folder; it is made.
        limit: Bytes that the blocks take together, apart from what is written between two looks.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._written = 0
        self._works = True

    def get(self, name: str, start: int, stop: int) -> bytes | None:
        """Returns a range of the bytes of a block; None if the block is not here."""
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return None
        try:
            with suppress(OSError):
                os.utime(path)
            content = os.pread(descriptor, stop - start, start)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return content if len(content) == stop - start else None

    def has(self, name: str) -> bool:
        """Tells whether a block is here."""
        return self._path(name).exists()

    def put(self, name: str, content: bytes) -> None:
        """Keeps a block; where the disk refuses it, the cache is given up with a warning."""
        if not self._works or len(content) > self._limit:
            return
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two threads would write to one unfinished file.
            with _writes, open_atomically(path, durable=False) as file:
                file.write(content)
            self._written += len(content)
            if self._written >= _LOOK * self._limit:
                self._written = 0
                self._make_room()
        except OSError as error:
            self._works = False
            _log.warning("%s; images are read again each time they are needed", str(error).rstrip("."))

    def drop(self, name: str) -> None:
        """Removes a block."""
        with suppress(OSError):
            self._path(name).unlink()

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Lets one process or thread at a time fetch a block; the others wait, and then find it.

        The lock outlives no process, but a fork in the middle would give it to the child, see :mod:`.forks`.
        """
        descriptor = None
        if fcntl is not None and self._works:
            # Without locks, or without the folder, two may fetch the same block.
            with suppress(OSError):
                folder = self._path(name).parent
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _path(self, name: str) -> Path:
        digest = sha256(name.encode()).hexdigest()
        return self._folder / digest[:2] / digest

    def _make_room(self) -> None:
        """Removes the blocks that were used longest ago, unless another process is doing so."""
        with held(self._folder) as mine:
            if not mine:
                return
            found = []
            # Also what processes that were killed left unfinished.
            for path in self._folder.glob("*/*"):
                with suppress(OSError):
                    status = path.stat()
                    if path.name != _LOCK:
                        found.append((status.st_mtime_ns, status.st_size, path))
            total = sum(size for _, size, _ in found)
            if total <= self._limit * (1 - _LOOK):
                return
            for _, size, path in sorted(found):
                if total <= self._limit * _FILLED:
                    break
                with suppress(OSError):
                    path.unlink()
                    total -= size
