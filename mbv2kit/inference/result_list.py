"""Results: the results of several images, computed as they are read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import overload

from mbv2kit.inference.pipeline import Predict, process
from mbv2kit.inference.results import Result
from mbv2kit.inference.sources import Source

# For a number of images, gives the workers that process them together.
Workers = Callable[[int], AbstractContextManager[Sequence[Predict]]]


class Results(Sequence[Result]):
    """A list of results that are computed in batches as they are read.

    Going through the list keeps all cores busy and runs a few batches ahead; reading one element computes its batch.
    Only the batch that was read last is kept, so that memory does not grow with the number of images;
    ``list(results)`` keeps everything.

    A file that cannot be read gives a result with an ``error``.

    Args:
        sources: The images.
        predict: Predicts for a batch.
        workers: Gives what predicts for batches in parallel.
        batch_size: Images in a batch.
    """

    def __init__(self, sources: Sequence[Source], predict: Predict, workers: Workers, batch_size: int) -> None:
        self._sources = sources
        self._predict = predict
        self._workers = workers
        self._batch_size = batch_size
        self._start: int | None = None
        self._batch: list[Result] = []

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> "Results": ...

    def __getitem__(self, index: int | slice) -> "Result | Results":
        if isinstance(index, slice):
            return Results(self._sources[index], self._predict, self._workers, self._batch_size)
        place = range(len(self))[index]
        start = place - place % self._batch_size
        if start != self._start:
            self._batch = self._predict(self._sources[start : start + self._batch_size])
            self._start = start
        return self._batch[place - start]

    def __iter__(self) -> Iterator[Result]:
        with self._workers(len(self)) as workers:
            yield from process(workers, self._sources, self._batch_size, lambda _, result: result)

    def __repr__(self) -> str:
        return f"Results({len(self)} image{'' if len(self) == 1 else 's'}, computed as they are read)"
