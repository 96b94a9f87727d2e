"""Measures the time of each stage from an image file to its results."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import perf_counter
from typing import Literal, get_args

Stage = Literal["reading", "network", "postprocessing", "writing"]


class Stages:
    """Adds up the time of each stage over all threads.

    Attributes:
        seconds: Time of each stage, summed over all threads.
    """

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = dict.fromkeys(get_args(Stage), 0.0)
        self._lock = Lock()

    @contextmanager
    def timing(self, stage: Stage) -> Iterator[None]:
        """Adds the time of the ``with`` block to a stage."""
        started = perf_counter()
        try:
            yield
        finally:
            spent = perf_counter() - started
            with self._lock:
                self.seconds[stage] += spent

    def describe(self, images: int, threads: int, seconds: float) -> str:
        """Returns one line with the average time of an image in each stage, and the number of images per second.

        Args:
            images: Number of images, at least one.
            threads: Number of images that are processed at a time.
            seconds: Time from the first to the last image.
        """
        parts = ", ".join(f"{stage} {1000 * spent / images:.1f}" for stage, spent in self.seconds.items())
        at_a_time = "one at a time" if threads == 1 else f"{threads} at a time"
        return f"Milliseconds an image: {parts}; {at_a_time}, {images / seconds:.1f} images a second"
