"""Reads files within tars and verifies them; over a network in blocks, which are read ahead and kept on disk."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from queue import SimpleQueue
from typing import Any

import numpy as np

from mbv2kit.data.sources.shards.cache import BlockCache
from mbv2kit.data.sources.shards.forks import fetches
from mbv2kit.data.sources.shards.members import Blocks, Members
from mbv2kit.data.sources.shards.retries import Retries
from mbv2kit.data.sources.shards.storage import Storage
from mbv2kit.errors import UserError

# Large enough for the rate of an object store, small enough to come before it is needed.
BLOCK_BYTES = 4 * 2**20
_AHEAD = 4


class MemberReader:
    """Returns the bytes of files within tars, as the index promises them.

    Args:
        storage: The folder of the tars.
        shards: Their names.
        members: The files.
        cache: Keeps blocks of a storage that is not local; None reads each file by itself.
        version: Changes whenever the content of the tars does.
        retries: How often what does not match its SHA-256 is read again.
    """

    def __init__(
        self,
        storage: Storage,
        shards: Sequence[str],
        members: Members,
        *,
        cache: BlockCache | None,
        version: str,
        retries: Retries,
    ) -> None:
        self._storage = storage
        self._shards = shards
        self._members = members
        self._cache = None if storage.is_local else cache
        self._version = version
        self._retries = Retries(0) if storage.is_local else retries
        self._blocks = Blocks(members, BLOCK_BYTES)
        self._ahead: _ReadAhead | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Threads stay in their process.
        return self.__dict__ | {"_ahead": None}

    def read(self, member: int, key: str) -> bytes:
        """Returns the bytes of a file.

        Args:
            member: Its number.
            key: What messages call it.

        Raises:
            UserError: It cannot be read, or is another one than the index promises, however often it is read.
        """
        wanted = self._members.digests[member].tobytes()
        for _ in self._retries:
            content = self._content(member)
            if sha256(content).digest() == wanted:
                return content
            if self._cache is not None:
                self._cache.drop(self._name(int(self._blocks.of_member[member])))
        often = f", also when it is read {self._retries.count + 1} times" if self._retries.count else ""
        raise UserError(
            f"{self._storage.place}/{self._shard(self._members.shards[member])}: the file of key {key} does not match "
            f"its SHA-256 in the index{often}; the shard is damaged or was replaced, so write it again."
        )

    def check_lengths(self) -> None:
        """Checks that every tar is there and holds its files.

        Raises:
            UserError: One is missing or ends too early.
        """
        last = np.zeros(len(self._shards), dtype=np.int64)
        np.maximum.at(last, self._members.shards, self._members.offsets + self._members.sizes)
        for name, stop in zip(self._shards, last.tolist(), strict=True):
            self._storage.read(name, stop - 1, stop)

    def _content(self, member: int) -> bytes:
        start, size = int(self._members.offsets[member]), int(self._members.sizes[member])
        if self._cache is None:
            with fetches.running():
                return self._storage.read(self._shard(self._members.shards[member]), start, start + size)
        block = int(self._blocks.of_member[member])
        self._read_ahead(block)
        first = start - int(self._blocks.starts[block])
        content = self._cache.get(self._name(block), first, first + size)
        return self._fetch(block)[first : first + size] if content is None else content

    def _fetch(self, block: int, *, retries: bool = True) -> bytes:
        """Returns a block, which this or another process reads and keeps."""
        assert self._cache is not None
        name, start, stop = self._name(block), int(self._blocks.starts[block]), int(self._blocks.stops[block])
        with fetches.running(), self._cache.writing(name):
            content = self._cache.get(name, 0, stop - start)
            if content is None:
                content = self._storage.read(self._shard(self._blocks.shards[block]), start, stop, retries=retries)
                self._cache.put(name, content)
        return content

    def _read_ahead(self, block: int) -> None:
        assert self._cache is not None
        if self._ahead is None or self._ahead.process != os.getpid():
            self._ahead = _ReadAhead(partial(self._fetch, retries=False))
        for following in self._blocks.after(block, _AHEAD):
            if not self._cache.has(self._name(following)):
                self._ahead.ask(following)

    def _name(self, block: int) -> str:
        shard = self._shard(self._blocks.shards[block])
        return f"{self._storage.place}/{shard} {self._blocks.starts[block]} {self._blocks.stops[block]} {self._version}"

    def _shard(self, number: Any) -> str:
        return self._shards[int(number)]


class _ReadAhead:
    """Fetches blocks in threads of this process, which do not keep it from ending.

    Args:
        fetch: Fetches a block.
    """

    def __init__(self, fetch: Callable[[int], object]) -> None:
        self.process = os.getpid()
        self._fetch = fetch
        self._wanted: SimpleQueue[int] = SimpleQueue()
        self._under_way: set[int] = set()
        self._lock = threading.Lock()
        for _ in range(_AHEAD):
            threading.Thread(target=self._work, name="read-ahead", daemon=True).start()

    def ask(self, block: int) -> None:
        """Starts to fetch a block, unless it is on its way already; errors are raised when the block is read."""
        with self._lock:
            if block not in self._under_way:
                self._under_way.add(block)
                self._wanted.put(block)

    def _work(self) -> None:
        while True:
            block = self._wanted.get()
            with suppress(Exception):
                self._fetch(block)
            with self._lock:
                self._under_way.discard(block)
