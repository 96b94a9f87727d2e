"""A folder that one process at a time holds, which a lock of the system decides."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

OWNER = ".owner"


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Holds a folder for this process: while it does, no other gets it, and when it ends in any way the hold ends too.

    Args:
        folder: An existing folder. It holds a hidden file in the meantime.

    Yields:
        Whether the folder is held; False if another process holds it.
    """
    path = folder / OWNER
    lock = _lock(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            path.unlink(missing_ok=True)
            _locks.discard(lock)
            os.close(lock)


def _lock(path: Path) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            # This file system knows no locks.
            break
        # The owner before may have removed the file between the two calls.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)
    _locks.add(descriptor)
    return descriptor


# A child would go on holding what its parent held when it was forked, and outlive it for seconds.
_locks: set[int] = set()


def _close_in_child() -> None:
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
