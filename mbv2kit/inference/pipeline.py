"""Processes many images, several batches at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from mbv2kit.inference.ordered import in_order
from mbv2kit.inference.results import Result
from mbv2kit.inference.sources import Source

Made = TypeVar("Made")
# Returns the results of the images of a batch.
Predict = Callable[[Sequence[Source]], list[Result]]

# Each worker takes memory; beyond this number, more threads per image are better.
MOST_WORKERS = 8


def count_workers(cores: int, images: int) -> int:
    """Returns how many images to process at a time: one per core, because then no thread waits for another."""
    return max(1, min(cores, images, MOST_WORKERS))


def process(
    workers: Sequence[Predict], sources: Sequence[Source], batch_size: int, finish: Callable[[int, Result], Made]
) -> Iterator[Made]:
    """Yields what ``finish`` makes of each result, in the order of the images.

    Args:
        workers: Each predicts for one batch at a time; several workers run in their own threads.
        sources: The images.
        batch_size: Number of images in a batch.
        finish: Function of the index of an image and its result; workers call it in their threads.
    """

    def work(predict: Predict, start: int) -> list[Made]:
        results = predict(sources[start : start + batch_size])
        return [finish(index, result) for index, result in enumerate(results, start)]

    for made in in_order([partial(work, predict) for predict in workers], range(0, len(sources), batch_size)):
        yield from made
