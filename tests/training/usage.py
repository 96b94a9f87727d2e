"""What this process and its children hold: memory and open files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path

# Pages of files are left out: the system drops and reads them again as it likes.
_IN_EACH = ("Anonymous:", "Pss_Shmem:")
_ONCE = ("Pss_Anon:", "Pss_Shmem:")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children hold at one moment.

    Attributes:
        memory: Resident memory in MB. Pages that children share with their parent count in each, since any of them may
            be copied at any time.
        divided: The same, with such pages divided among those that share them.
        handles: Number of open files, pipes and sockets.
    """

    memory: float
    divided: float
    handles: int


def usage() -> Usage:
    """Returns what this process and its children hold; Linux only."""
    return usage_of([os.getpid(), *_children()])


def usage_of_children() -> Usage:
    """Returns what the children of this process hold; Linux only."""
    return usage_of(_children())


def _children() -> list[int]:
    return [child.pid for child in active_children() if child.pid is not None]


def usage_of(numbers: Sequence[int]) -> Usage:
    """Returns what some processes hold together, by their numbers; Linux only."""
    folders = [Path("/proc") / str(number) for number in numbers]
    handles = sum(len(list((folder / "fd").iterdir())) for folder in folders)
    return Usage(_memory(folders, _IN_EACH), _memory(folders, _ONCE), handles)


def _memory(folders: Sequence[Path], kinds: Sequence[str]) -> float:
    lines = (line.split() for folder in folders for line in (folder / "smaps_rollup").read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0] in kinds) * 1024 / 1e6
