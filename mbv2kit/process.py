"""How a process of ours uses the machine: cores, threads that sleep while they wait, kept memory, a quiet stderr."""

import ctypes
import math
import os
import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

# mallopt's parameters, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_STDERR = 2


def let_threads_sleep() -> None:
    """Makes OpenMP's threads sleep at a barrier instead of spinning; call it before torch is imported.

    Two threads that spin on one core wait for each other a whole time slice at every layer. It happens whenever
    something else runs beside them, a data loader for instance, and made training steps ten times as long on two
    cores. Who sets ``OMP_WAIT_POLICY`` keeps what he set.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of giving it back to the system after every layer.

    Each giving back costs page faults at the next layer; training on a CPU is 1.2 to 1.8 times as fast without. On
    other C libraries this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_TOP_PAD, 2**28)


@contextmanager
def hold_back_stderr() -> Iterator[None]:
    """Drops what C++ writes to the process's stderr, where runtimes say what they use and nothing turns that off.

    Errors are not lost by it; they come as exceptions.
    """
    kept = os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(nowhere)


def usable_cores(cpus: Collection[int] | None = None, root: Path = Path("/")) -> int:
    """Counts the cores that this process may keep busy: the number of threads at which arithmetic is quickest.

    Two hardware threads of one core count once, since they share its arithmetic units. On Linux the limits of control
    groups, which containers and schedulers set, count as well, rounded up to whole cores.

    Args:
        cpus: Numbers of the hardware threads that the process may run on; None asks the system.
        root: Folder in which ``sys/`` and ``proc/`` lie; what is missing there limits nothing.

    Returns:
        At least 1.
    """
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {read_system_file(root / topology.format(cpu)) or str(cpu) for cpu in cpus}
    return max(1, min([len(cores), *map(math.ceil, _cpu_limits(root))]))


def _cpu_limits(root: Path) -> Iterator[float]:
    """Yields how many CPUs' time the control groups of this process give it, each that sets a limit; cgroups(7)."""
    # The second version of control groups has one tree without a name, the first one a tree for each controller.
    groups = {"": "/", "cpu": "/"}
    for line in read_system_file(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), group))
    mount = root / "sys/fs/cgroup"
    for folder in _upwards(mount, groups[""]):
        yield from _limit(*read_system_file(folder / "cpu.max").split())
    for folder in _upwards(mount / "cpu", groups["cpu"]):
        yield from _limit(read_system_file(folder / "cpu.cfs_quota_us"), read_system_file(folder / "cpu.cfs_period_us"))


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """Yields the folder of a group and of all above it; a container may see no more than the top one."""
    names = [name for name in group.split("/") if name not in ("", "..")]
    for count in range(len(names), -1, -1):
        yield mount.joinpath(*names[:count])


def _limit(quota: str = "", period: str = "") -> Iterator[float]:
    # No limit is called "max" in the second version and -1 in the first.
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        yield int(quota) / int(period)


def read_system_file(path: Path) -> str:
    """Returns the text of a file in ``/proc`` or ``/sys``, stripped; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
