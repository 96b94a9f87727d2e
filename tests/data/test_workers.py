"""Workers use one thread each, outlive signals to their group, and their errors arrive as without workers."""

import gc
import os
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from select import select
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mbv2kit.data.workers import WorkerLoader, choose_workers, worker_deaths_told
from mbv2kit.errors import UserError
from tests.processes import run_python


class Threads(Dataset[tuple[int, int]]):
    """Each item blurs an image and tells how many threads OpenCV and torch use."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[int, int]:
        blur(64)
        return cv2.getNumThreads(), torch.get_num_threads()


def blur(side: int) -> None:
    cv2.GaussianBlur(np.zeros((side, side, 3), dtype=np.uint8), (9, 9), 2)


@pytest.fixture
def opencv_threads() -> Iterator[Callable[[int], None]]:
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)


def test_workers_use_one_thread_and_the_caller_keeps_its_own(opencv_threads: Callable[[int], None]) -> None:
    opencv_threads(3)
    # Starts OpenCV's threads, which a process forked now could neither use nor end.
    blur(2000)
    loader = WorkerLoader(Threads(), 1, batch_size=None)
    for _ in range(2):
        assert [tuple(threads) for threads in loader] == [(1, 1), (1, 1)]
        assert cv2.getNumThreads() == 3


def test_importing_the_package_leaves_the_threads_of_opencv_alone() -> None:
    program = (
        "import cv2; cv2.setNumThreads(3); "
        "import mbv2kit.imaging.images, mbv2kit.training.run, mbv2kit.inference.run; "
        "print(cv2.getNumThreads())"
    )
    assert run_python(program) == "3\n"


def test_workers_serve_where_a_server_forks_them() -> None:
    program = (
        "import multiprocessing; multiprocessing.set_start_method('forkserver'); "
        "from mbv2kit.data.workers import WorkerLoader; "
        "print(*WorkerLoader(range(4), 1, batch_size=None))"
    )
    assert run_python(program) == "0 1 2 3\n"


class Frozen(Dataset[int]):
    """The item tells how many objects the search for garbage leaves alone."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return gc.get_freeze_count()


def test_a_worker_does_not_look_for_garbage_in_what_it_was_forked_with() -> None:
    (count,) = WorkerLoader(Frozen(), 1, batch_size=None)
    assert count > len(gc.get_objects()) / 2
    assert gc.get_freeze_count() == 0


class Tensors(Dataset[torch.Tensor]):
    """Items of a thousand numbers each; the third raises an error, if there is one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2 and self._error is not None:
            raise self._error
        return torch.full((1000,), index)


class OddError(Exception):
    """An error that can be made from two arguments only, and not be pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}\nand a second line")


ERRORS = [
    (UserError("a.jpg: there is no such file."), r"a\.jpg: there is no such file\."),
    (KeyError("label"), r"item 2 failed \(KeyError: 'label'\)\."),
    (MemoryError(), r"item 2 failed \(MemoryError: MemoryError\)\."),
    (OddError(1, 2), r"item 2 failed \(OddError: 1 and 2 and a second line\)\."),
    (StopIteration(), r"item 2 failed \(StopIteration: StopIteration\)\."),
]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("error", "sentence"), ERRORS)
def test_an_error_is_the_same_sentence_with_workers_and_without(workers: int, error: Exception, sentence: str) -> None:
    loader = WorkerLoader(Tensors(error), workers, batch_size=2, collate_fn=torch.stack)
    batches = iter(loader)
    assert next(batches).tolist() == [[0] * 1000, [1] * 1000]
    with pytest.raises(UserError, match=f"^{sentence}$"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_collating_is_a_sentence_too(workers: int) -> None:
    def fail(items: Any) -> Any:
        raise ValueError("shapes differ")

    with pytest.raises(UserError, match=r"^a batch failed \(ValueError: shapes differ\)\.$"):
        next(iter(WorkerLoader(Tensors(), workers, batch_size=2, collate_fn=fail)))


def test_without_shared_memory_batches_come_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def dumps(batch: Any) -> None:
            raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    # Workers are forked, so that they have it too.
    monkeypatch.setattr("mbv2kit.data.transport.ForkingPickler", Full)
    loader = WorkerLoader(Tensors(), 1, batch_size=2, collate_fn=torch.stack)
    for _ in range(2):
        assert [batch[:, 0].tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_that_cannot_be_started_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("torch.multiprocessing.Queue", refuse)
    with pytest.raises(UserError, match=r"loader\.workers=1 cannot be started \(.*Read-only.*set loader\.workers=0"):
        iter(WorkerLoader(Tensors(), 1, batch_size=2))


@pytest.fixture
def started() -> Iterator[tuple[Any, Any]]:
    """A loader that has given its first batch, and its only worker."""
    loader = WorkerLoader(Tensors(), 1, batch_size=1, prefetch_factor=1, collate_fn=torch.stack)
    batches = iter(loader)
    next(batches)
    inner: Any = loader._iterator
    yield batches, inner._workers[0]
    inner._shutdown_workers()


def test_signals_to_the_group_do_not_end_a_worker_but_training_can(started: tuple[Any, Any]) -> None:
    batches, worker = started
    for name in ("INT", "TERM"):
        # From another process than the worker's parent, as from a terminal or a scheduler.
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert [int(batch[0, 0]) for batch in batches] == [1, 2, 3, 4, 5]
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0


def test_a_killed_worker_is_a_sentence(started: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match=r"^A process of loader\.workers ended \(.*memory.*set loader\.workers=0"):
        kill_and_read(*started)


@worker_deaths_told()
def kill_and_read(batches: Any, worker: Any) -> None:
    """torch reports the death wherever the program is at the moment: in reading or before it."""
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    list(batches)


class Arrays(Dataset[Any]):
    """Items that fill the pipe to the training process, as images of a validation split do."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return np.zeros(1_000_000, dtype=np.uint8)


def load_and_die() -> None:
    loader = WorkerLoader(Arrays(), 1, batch_size=None)
    batches = iter(loader)
    next(batches)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="macOS has no such call")
def test_a_worker_ends_with_a_training_process_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbv2kit.data.workers._LOOK", 0.1)
    # Both processes inherit one end of the pipe, and the other reads nothing until neither is left.
    reading, writing = os.pipe()
    training = get_context("fork").Process(target=load_and_die)
    training.start()
    os.close(writing)
    training.join()
    assert training.exitcode == -signal.SIGKILL
    assert select([reading], [], [], 60)[0]
    os.close(reading)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide alone what to keep")
def test_workers_do_not_hold_on_to_what_was_freed_before_they_start() -> None:
    # The blocks that are left keep glibc from returning the others by itself.
    blocks = [torch.ones(16_000) for _ in range(1000)]
    blocks = blocks[::50]
    loader = WorkerLoader(Tensors(), 1, batch_size=2, collate_fn=torch.stack)
    before = resident()
    batches = iter(loader)
    assert resident() < before - 50e6
    assert [batch[0, 0].item() for batch in batches] == [0, 2, 4]


def resident() -> int:
    """Returns the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("device", "devices", "cores", "workers"),
    [
        ("cpu", 1, 1, 1),
        ("cpu", 1, 2, 1),
        ("cpu", 1, 64, 8),
        ("gpu", 1, 1, 1),
        ("gpu", 1, 8, 7),
        ("gpu", 4, 32, 7),
        ("gpu", 1, 128, 16),
        ("mps", 1, 10, 9),
    ],
)
def test_workers_by_cores_and_devices(device: str, devices: int, cores: int, workers: int) -> None:
    assert choose_workers(device, devices, cores) == workers
    assert choose_workers(device) >= 1
