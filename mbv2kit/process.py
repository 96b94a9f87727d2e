"""How a process uses the machine: its number of cores, waiting threads, freed memory, and stderr."""

import ctypes
import gc
import math
import os
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# mallopt's parameters, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_STDERR = 2

# How long OpenMP's threads spin at a barrier before they sleep; GNU's takes a number of rounds, 10,000 in about 0.1 ms.
_WAITING: Mapping[str, str] = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "10000"}
THREAD_SETTINGS: Mapping[str, str] = {**_WAITING, "OPENCV_FOR_THREADS_NUM": "1"}


def configure_threads() -> None:
    """Sets how the threads of OpenMP and OpenCV behave; call it before importing torch and OpenCV.

    OpenMP's threads spin at a barrier for a moment, then sleep. Threads that spin for long while another process, such
    as a data loader, needs their core lose a whole time slice at every layer; on two cores this made training steps
    ten times as long. Threads that sleep at once must be woken at every layer, which takes longer than most layers of
    a small network and doubled the time of its steps. OpenCV uses one thread, since several images are processed at a
    time.

    Existing values of these environment variables are left unchanged.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ.update(_WAITING)
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of returning it to the system after every layer.

    Memory that was returned costs page faults at the next layer; keeping it makes training on a CPU 1.2 to 1.8 times
    as fast. With other C libraries this does nothing.
    """
    if (libc := _glibc()) is not None:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_TOP_PAD, 2**28)


def release_freed_memory() -> None:
    """Returns freed memory to the system once, for instance before a fork.

    A forked process shares the memory of this one until this one writes to it, then both have a copy. After a training
    step that is some gigabytes, which neither needs. With other C libraries this does nothing.
    """
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@contextmanager
def objects_left_alone() -> Iterator[None]:
    """Looks for garbage only among objects that are made from now on.

    The search writes to every object that it looks at. Forked processes share the memory of imported modules, some 140
    MB, until one of them writes to it.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Discards what C++ code writes to stderr: some runtimes print messages there that no option turns off.

    Errors are not lost: they are raised as exceptions.
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
    """Counts the physical cores that this process may use, which is the fastest number of threads for arithmetic.

    Two hardware threads of one core count once, since they share its arithmetic units. On Linux, limits that
    containers and schedulers set by control groups apply too, rounded up to whole cores.

    Args:
        cpus: Numbers of the hardware threads that the process may run on; None asks the system.
        root: Folder that holds ``sys/`` and ``proc/``; a missing file sets no limit.

    Returns:
        At least 1.
    """
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {read_system_file(root / topology.format(cpu)) or str(cpu) for cpu in cpus}
    return max(1, min([len(cores), *map(math.ceil, _cpu_limits(root))]))


def processor_name(root: Path = Path("/")) -> str:
    """Returns the model name of the processor, else what the system calls it; may be empty.

    Args:
        root: Folder that contains ``proc/``.
    """
    found = re.search(r"^model name\s*:\s*(.+)$", read_system_file(root / "proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor()


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Yields the folders of the control groups of this process and of their parents; see cgroups(7).

    Args:
        controller: What they limit, as the first version of control groups calls it: ``cpu`` or ``memory``.
        root: Folder that holds ``sys/`` and ``proc/``.
    """
    # Version 2 of control groups has one tree without a name, version 1 has a tree for each controller.
    groups = {"": "/", controller: "/"}
    for line in read_system_file(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), group))
    mount = root / "sys/fs/cgroup"
    yield from _upwards(mount, groups[""])
    yield from _upwards(mount / controller, groups[controller])


def _cpu_limits(root: Path) -> Iterator[float]:
    """Yields each limit that the control groups of this process set, in CPUs."""
    for folder in control_groups("cpu", root):
        yield from _limit(*read_system_file(folder / "cpu.max").split())
        yield from _limit(read_system_file(folder / "cpu.cfs_quota_us"), read_system_file(folder / "cpu.cfs_period_us"))


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """Yields the folders of a group and of its parents; a container may see only the topmost."""
    names = [name for name in group.split("/") if name not in ("", "..")]
    for count in range(len(names), -1, -1):
        yield mount.joinpath(*names[:count])


def _limit(quota: str = "", period: str = "") -> Iterator[float]:
    # Version 2 writes "max" where there is no limit, version 1 writes -1.
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        yield int(quota) / int(period)


def read_system_file(path: Path) -> str:
    """Returns the text of a file in ``/proc`` or ``/sys``, stripped; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
