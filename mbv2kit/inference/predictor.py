"""From picture files to predictions in the pixels of each picture, several pictures at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import UnreadableImageError
from mbv2kit.imaging.preprocess import InputRule, Placement, read_input
from mbv2kit.inference.ordered import in_order
from mbv2kit.inference.stages import Stages
from mbv2kit.structures import Image, Prediction, Task

Result = TypeVar("Result")

# More threads than that are better spent on each picture than on further ones, which take memory.
_MOST_WORKERS = 8


class PictureModel(Protocol):
    """What a predictor asks of a model, whatever computes its answers."""

    @property
    def input(self) -> InputRule:
        """How a picture becomes the network's input."""

    @property
    def class_names(self) -> Mapping[Task, Sequence[str]]:
        """For each task of the model the names of its classes, by class id."""

    @property
    def batch(self) -> int | None:
        """Pictures at a time that the network takes; None for any number."""

    def copy(self) -> "PictureModel":
        """Returns the same network, to run beside this one."""

    def answer(self, inputs: NDArray[np.uint8]) -> Any:
        """Runs the network on ``(B, H, W, 3)`` uint8 inputs, made by the input rule; what it says, :meth:`read` reads.

        B may be any number, whatever ``batch`` is.
        """

    def read(self, answers: Any, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Reads what :meth:`answer` says of a batch as predictions of each task, in the pixels of each picture."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that the model has seen.

    Attributes:
        path: Its file.
        size: Its height and width.
        predictions: For each task what the model sees, in pixels of the picture.
    """

    path: Path
    size: tuple[int, int]
    predictions: dict[Task, Prediction]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that gave no picture.

    Attributes:
        path: The file.
        error: Why, in one sentence.
    """

    path: Path
    error: str


def count_workers(cores: int, pictures: int) -> int:
    """Returns how many pictures to see at a time, each on its share of the cores.

    As many as there are cores, each seen by one of them, is the quickest: nobody waits for anybody.
    """
    return max(1, min(cores, pictures, _MOST_WORKERS))


class Predictor:
    """Reads pictures and has a model see them, several at a time.

    Each worker is a thread that does all there is to do for a picture, with a copy of the model of its own.

    Args:
        model: What sees the pictures; the first worker's.
        batch_size: Pictures that a worker reads and sees at a time, memory grows with it; None for as many as the
            network takes, or one where it takes any number.
        workers: How many there are.

    Attributes:
        stages: What has been spent on reading, the network and its answers so far.

    Raises:
        UserError: ``batch_size`` is no whole number from 1 up.
    """

    def __init__(self, model: PictureModel, batch_size: int | None = None, *, workers: int = 1) -> None:
        # A configuration may hold anything.
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise UserError(
                f"batch_size must be a whole number from 1 up, or null for what suits the model, got {batch_size}."
            )
        self.stages = Stages()
        self._batch_size = batch_size or model.batch or 1
        self._models = [model, *(model.copy() for _ in range(workers - 1))]

    def predict(self, paths: Sequence[Path]) -> Iterator[Seen | Unreadable]:
        """Yields a result for each path, in their order; a file that cannot be read does not stop the others."""
        return self.process(paths, lambda _, result: result)

    def process(self, paths: Sequence[Path], finish: Callable[[int, Seen | Unreadable], Result]) -> Iterator[Result]:
        """Yields what ``finish`` makes of each result, in the order of the paths.

        Args:
            paths: Of the pictures.
            finish: Called in the workers' threads with the place of a path and its result.
        """
        workers = [partial(self._see, model, paths, finish) for model in self._models]
        for results in in_order(workers, range(0, len(paths), self._batch_size)):
            yield from results

    def _see(
        self,
        model: PictureModel,
        paths: Sequence[Path],
        finish: Callable[[int, Seen | Unreadable], Result],
        start: int,
    ) -> list[Result]:
        batch = paths[start : start + self._batch_size]
        with self.stages.timing("reading"):
            pictures = [_read(path, model.input) for path in batch]
        inputs = [picture for picture in pictures if not isinstance(picture, Unreadable)]
        predictions = iter(self._predict(model, inputs) if inputs else [])
        results: list[Result] = []
        for place, (path, picture) in enumerate(zip(batch, pictures, strict=True), start):
            if isinstance(picture, Unreadable):
                results.append(finish(place, picture))
            else:
                results.append(finish(place, Seen(path, picture[1].picture, next(predictions))))
        return results

    def _predict(self, model: PictureModel, inputs: Sequence[tuple[Image, Placement]]) -> list[dict[Task, Prediction]]:
        images, placements = zip(*inputs, strict=True)
        with self.stages.timing("network"):
            answers = model.answer(np.stack(images))
        with self.stages.timing("answers"):
            return model.read(answers, placements)


def _read(path: Path, rule: InputRule) -> tuple[Image, Placement] | Unreadable:
    try:
        return read_input(path, rule)
    except UnreadableImageError as error:
        return Unreadable(path, str(error))
