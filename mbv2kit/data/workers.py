"""Worker processes that read and augment images while the model trains."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from mbv2kit.errors import UserError

Item = TypeVar("Item")


class WorkerLoader(DataLoader[Item]):
    """A DataLoader whose workers use one thread each and live as long as the loader.

    Args:
        dataset: The data set to load from.
        workers: Number of processes; 0 loads in the caller's process.
        **options: Further arguments of DataLoader.
    """

    def __init__(self, dataset: Dataset[Item], workers: int, **options: Any) -> None:
        super().__init__(
            dataset,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_set_up_worker if workers else None,
            **options,
        )

    def __iter__(self) -> Any:
        """Starts the workers unless they run already, and iterates over one epoch."""
        with _without_opencv_threads():
            return super().__iter__()


def check_workers(workers: int) -> None:
    """Checks a number of workers.

    Raises:
        UserError: It is negative.
    """
    if workers < 0:
        raise UserError(f"loader.workers must be at least 0, got {workers}.")


@contextmanager
def _without_opencv_threads() -> Iterator[None]:
    """Stops OpenCV's threads while processes are forked, because its thread pool does not survive a fork."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _set_up_worker(worker: int) -> None:
    # A single image needs no threads, and those of several workers would compete with training for the cores.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # Ctrl-C reaches every process of the terminal. Training handles it and needs its workers until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
