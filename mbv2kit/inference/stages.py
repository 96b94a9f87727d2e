"""Where the time goes on the way from a file to its answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from time import perf_counter
from typing import Literal, get_args

Stage = Literal["reading", "network", "postprocessing", "writing"]


class Stages:
    """Adds up the time of each stage over all threads.

    Attributes:
        seconds: Of each stage, those of all threads together.
    """

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = dict.fromkeys(get_args(Stage), 0.0)
        self._lock = Lock()

    @contextmanager
    def timing(self, stage: Stage) -> Iterator[None]:
        """Adds the time spent within to a stage."""
        started = perf_counter()
        try:
            yield
        finally:
            spent = perf_counter() - started
            with self._lock:
                self.seconds[stage] += spent

    def describe(self, images: int, threads: int, seconds: float) -> str:
        """Says in one line what each image took on average, and how many there were a second.

        Args:
            images: How many there were, at least one.
            threads: How many images were worked on at a time.
            seconds: From the first to the last of them.
        """
        parts = ", ".join(f"{stage} {1000 * spent / images:.1f}" for stage, spent in self.seconds.items())
        at_a_time = "one at a time" if threads == 1 else f"{threads} at a time"
        return f"Milliseconds an image: {parts}; {at_a_time}, {images / seconds:.1f} images a second"
