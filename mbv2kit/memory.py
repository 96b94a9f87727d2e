"""How much memory a process may take, and a sentence where it is not enough."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from mbv2kit.errors import UserError, one_line
from mbv2kit.process import control_groups, read_system_file

resource: ModuleType | None
try:
    import resource
except ModuleNotFoundError:  # on Windows
    resource = None

# What numpy, C++, ONNX Runtime and OpenVINO, torch on a CPU, and torch on a GPU say.
_RAN_OUT = re.compile(
    r"unable to allocate|bad_alloc|failed to allocate|can(?:'t|not) allocate memory|out of memory", re.IGNORECASE
)
# Bytes that a process reserves and never uses: stacks of threads, and what malloc asks for in advance; see
# mbv2kit.process.keep_freed_memory. They count for a limit, and on a small board they are more than is free.
NEVER_TOUCHED = 2**30
# Files of a control group with its limit, what it uses, and the key of the pages in memory.stat that it can give back;
# of both versions.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Keeps this process from taking more memory within the block than is free at its start, but for a gigabyte.

    Without a limit, Linux promises more memory than there is, and kills a process that uses it. With it, what takes
    too much fails at once; see :func:`memory_errors_told`. Other systems set no limit.
    """
    free = free_memory()
    if resource is None or free is None:
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = _taken(Path("/")) + free + NEVER_TOUCHED
    most = min(most, *(limit if limit != resource.RLIM_INFINITY else most for limit in (before, hard)))
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def free_memory(root: Path = Path("/")) -> int | None:
    """Returns how many bytes this process can still take: free memory and swap, within all limits.

    Args:
        root: Folder that holds ``sys/`` and ``proc/``.

    Returns:
        None where the system does not say.
    """
    memory, swap = (_size(root / "proc/meminfo", key) for key in ("MemAvailable", "SwapFree"))
    if memory is None:
        return None
    left = [memory + (swap or 0), *_group_limits(root)]
    if resource is not None:
        soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
        left += [] if soft == resource.RLIM_INFINITY else [soft - _taken(root)]
    return max(0, min(left))


@contextmanager
def memory_errors_told() -> Iterator[None]:
    """Turns memory that is not enough into a sentence, whichever library asked for it.

    Raises:
        UserError: There was not enough memory.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every library has its own class
        if not ran_out_of_memory(error):
            raise
        raise UserError(
            f"There is not enough memory ({one_line(error)}); use a smaller input or batch, or infer with "
            "memory_budget=1GB."
        ) from error


def ran_out_of_memory(error: Exception) -> bool:
    """Tells whether an error of any library says that there is not enough memory."""
    return isinstance(error, MemoryError) or _RAN_OUT.search(str(error)) is not None


def _group_limits(root: Path) -> Iterator[int]:
    """Yields what is left of each limit that the control groups of this process set, in bytes."""
    for folder in control_groups("memory", root):
        for limit, used, given_back in _GROUP_FILES:
            most, now = (read_system_file(folder / name) for name in (limit, used))
            # Without a limit, version 2 writes "max".
            if most.isdigit() and now.isdigit():
                yield int(most) - int(now) + (_number(folder / "memory.stat", given_back) or 0)


def _taken(root: Path) -> int:
    """Returns the bytes that this process has asked for, as its limit counts them."""
    return _size(root / "proc/self/status", "VmData") or 0


def _size(file: Path, key: str) -> int | None:
    """Returns the bytes of a key that Linux writes in kilobytes."""
    found = _number(file, f"{key}:")
    return None if found is None else 1024 * found


def _number(file: Path, key: str) -> int | None:
    found = re.search(rf"^{key}\s+(\d+)", read_system_file(file), re.MULTILINE)
    return None if found is None else int(found[1])
