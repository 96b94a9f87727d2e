"""From image files to predictions, several files at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import UnreadableImageError
from mbv2kit.imaging.preprocess import Placement, Preprocess, preprocess_file
from mbv2kit.inference.ordered import in_order
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.stages import Stages
from mbv2kit.structures import Image, Prediction, Task

Result = TypeVar("Result")

# Each further worker takes memory; more threads are better spent within an image.
_MOST_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Predicted:
    """A file that was read, and the predictions for its image.

    Attributes:
        path: The file.
        size: Height and width of the image.
        predictions: The prediction of each task, in pixels of the image.
    """

    path: Path
    size: tuple[int, int]
    predictions: dict[Task, Prediction]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that could not be read.

    Attributes:
        path: The file.
        error: The reason, in one sentence.
    """

    path: Path
    error: str


def count_workers(cores: int, images: int) -> int:
    """Returns how many images to process at a time: one for each core, since then no thread waits for another."""
    return max(1, min(cores, images, _MOST_WORKERS))


class Pipeline:
    """Reads image files and predicts, several files at a time.

    Each worker is a thread that does everything for an image, with a copy of the predictor of its own.

    Args:
        predictor: The first worker's.
        batch_size: Images that a worker processes at a time; memory grows with it. None for as many as the network
            takes, or one where it takes any number.
        workers: Number of threads.

    Attributes:
        stages: Time spent so far on reading, the network and postprocessing.

    Raises:
        UserError: ``batch_size`` is not a whole number from 1 up.
    """

    def __init__(self, predictor: Predictor, batch_size: int | None = None, *, workers: int = 1) -> None:
        # A configuration may hold anything.
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise UserError(
                f"batch_size must be a whole number from 1 up, or null for what suits the model, got {batch_size}."
            )
        self.stages = Stages()
        self._batch_size = batch_size or predictor.batch or 1
        self._predictors = [predictor, *(predictor.copy() for _ in range(workers - 1))]

    def predict(self, paths: Sequence[Path]) -> Iterator[Predicted | Unreadable]:
        """Yields a result for each path, in their order; a file that cannot be read does not stop the others."""
        return self.process(paths, lambda _, result: result)

    def process(
        self, paths: Sequence[Path], finish: Callable[[int, Predicted | Unreadable], Result]
    ) -> Iterator[Result]:
        """Yields what ``finish`` makes of each result, in the order of the paths.

        Args:
            paths: Of the images.
            finish: Called in the workers' threads with the place of a path and its result.
        """
        workers = [partial(self._process, predictor, paths, finish) for predictor in self._predictors]
        for results in in_order(workers, range(0, len(paths), self._batch_size)):
            yield from results

    def _process(
        self,
        predictor: Predictor,
        paths: Sequence[Path],
        finish: Callable[[int, Predicted | Unreadable], Result],
        start: int,
    ) -> list[Result]:
        batch = paths[start : start + self._batch_size]
        with self.stages.timing("reading"):
            read = [_read(path, predictor.preprocess) for path in batch]
        inputs = [each for each in read if not isinstance(each, Unreadable)]
        predictions = iter(self._predict(predictor, inputs) if inputs else [])
        results: list[Result] = []
        for place, (path, each) in enumerate(zip(batch, read, strict=True), start):
            if isinstance(each, Unreadable):
                results.append(finish(place, each))
            else:
                results.append(finish(place, Predicted(path, each[1].image, next(predictions))))
        return results

    def _predict(self, predictor: Predictor, read: Sequence[tuple[Image, Placement]]) -> list[dict[Task, Prediction]]:
        inputs, placements = zip(*read, strict=True)
        with self.stages.timing("network"):
            outputs = predictor.outputs(np.stack(inputs))
        with self.stages.timing("postprocessing"):
            return predictor.postprocess(outputs, placements)


def _read(path: Path, preprocess: Preprocess) -> tuple[Image, Placement] | Unreadable:
    try:
        return preprocess_file(path, preprocess)
    except UnreadableImageError as error:
        return Unreadable(path, str(error))
