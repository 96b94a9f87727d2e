"""Worker processes that read and augment images while the model trains."""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from mbv2kit.data.transport import Guarded, Sender, received, worker_ended
from mbv2kit.errors import UserError, one_line
from mbv2kit.process import release_freed_memory, usable_cores

Item = TypeVar("Item")

# macOS has no such call; its workers ignore the signal.
_CAN_WAIT = hasattr(signal, "sigtimedwait")
# Seconds between two looks whether the training process is still there.
_LOOK = 2.0
# Cores for which one reading process suffices, where a CPU trains.
_CORES_A_READER = 8
# Most reading processes for one device.
_MOST_READERS = 16
_DEATH = "DataLoader worker (pid"


class WorkerLoader(DataLoader[Item]):
    """A DataLoader whose workers use one thread each and live as long as the loader.

    Whatever goes wrong in a worker arrives as the error that it is without workers.

    Args:
        dataset: The data set to load from.
        workers: Number of processes; 0 loads in the caller's process.
        collate_fn: Makes a batch of a list of items; None leaves items as they are.
        **options: Further arguments of DataLoader.
    """

    def __init__(
        self,
        dataset: Dataset[Item],
        workers: int,
        *,
        collate_fn: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            Guarded(dataset),
            num_workers=workers,
            collate_fn=Sender(collate_fn or _as_it_is, packs=workers > 0),
            persistent_workers=workers > 0,
            worker_init_fn=_set_up_worker if workers else None,
            **options,
        )

    def __iter__(self) -> Any:
        """Starts the workers unless they run already, and iterates over one epoch.

        Raises:
            UserError: The workers cannot be started; and while iterating, whatever an item raises.
        """
        # Workers of the validation start after training steps, and must not hold on to the memory of those.
        if self.num_workers and self._iterator is None:
            release_freed_memory()
        try:
            with _ready_to_fork():
                batches = super().__iter__()
        except OSError as error:
            # Queues between processes need semaphores, which lie in shared memory.
            raise UserError(
                f"loader.workers={self.num_workers} cannot be started ({one_line(error)}); set loader.workers=0, or "
                "give this system shared memory (/dev/shm, in a container --shm-size=1g), processes and open files."
            ) from None
        return received(batches)


def choose_workers(device: str, devices: int = 1, cores: int | None = None) -> int:
    """Returns how many processes read images so that training need not wait for them.

    On a CPU, a step takes longer than a process needs to read its images, and every process takes a core from it now
    and then, so that one suffices for eight cores. A GPU leaves all cores but one to the readers; more than sixteen for
    one GPU rarely help.

    Args:
        device: ``cpu``, or any other.
        devices: How many of them share the cores.
        cores: Cores that this process may use; None asks the system.
    """
    cores = usable_cores() if cores is None else cores
    if device == "cpu":
        return max(1, cores // _CORES_A_READER)
    return max(1, min(_MOST_READERS, cores // devices - 1))


def check_workers(workers: int) -> None:
    """Checks a number of workers.

    Raises:
        UserError: It is negative.
    """
    if workers < 0:
        raise UserError(f"loader.workers must be at least 0, got {workers}.")


@contextmanager
def worker_deaths_told() -> Iterator[None]:
    """Turns the death of a worker into a sentence; torch reports it wherever the program happens to be.

    Raises:
        UserError: A worker ended that should not have.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(_DEATH):
            raise
        what = one_line(error).removeprefix("DataLoader worker ").partition(". ")[0]
        raise worker_ended(what) from None


@contextmanager
def _ready_to_fork() -> Iterator[None]:
    """Prepares this process for forks: OpenCV's threads do not survive them, and children start with SIGTERM blocked.

    Some libraries start threads in a child at once; one that does not block the signal would still end the child.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if _CAN_WAIT else set()
    try:
        yield
    finally:
        if _CAN_WAIT:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        cv2.setNumThreads(threads)


def _as_it_is(item: Any) -> Any:
    return item


def _set_up_worker(worker: int) -> None:
    # A single image needs no threads, and those of several workers would compete with training for the cores.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # Looking for garbage among the objects of the training process would write to them, which copies their memory.
    gc.freeze()
    # Ctrl-C reaches every process of the terminal, and SIGTERM every process of a job that a scheduler ends. Training
    # handles both and needs its workers until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _CAN_WAIT:
        parent = parent_process()
        assert parent is not None
        # Where a server forks processes for others, it is the one that shows that they are no more.
        threading.Thread(target=_end_for_parent, args=(parent.pid, os.getppid()), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_for_parent(parent: int, forker: int) -> None:
    """Ends when the process that started this one sends SIGTERM, which from any other is ignored, or is no more.

    torch's own way out of a killed process waits until the last batches are sent, and no one reads them.
    """
    while os.getppid() == forker:
        received = signal.sigtimedwait({signal.SIGTERM}, _LOOK)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
