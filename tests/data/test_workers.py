"""Worker processes use one thread each, whatever the program around them does with OpenCV's threads."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mbv2kit.data.workers import WorkerLoader


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
