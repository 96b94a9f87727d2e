"""From image files to predictions in the pixels of each image, several images at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import UnreadableImageError
from mbv2kit.imaging.preprocess import Placement, Preprocess, preprocess_file
from mbv2kit.inference.ordered import in_order
from mbv2kit.inference.stages import Stages
from mbv2kit.structures import Image, Prediction, Task

Result = TypeVar("Result")

# More threads than that are better spent on each image than on further ones, which take memory.
_MOST_WORKERS = 8


class ImageModel(Protocol):
    """What a predictor asks of a model, whatever computes its answers."""

    @property
    def input(self) -> Preprocess:
        """How an image becomes the network's input."""

    @property
    def class_names(self) -> Mapping[Task, Sequence[str]]:
        """For each task of the model the names of its classes, by class id."""

    @property
    def batch(self) -> int | None:
        """Images at a time that the network takes; None for any number."""

    def copy(self) -> "ImageModel":
        """Returns the same network, to run beside this one."""

    def outputs(self, inputs: NDArray[np.uint8]) -> Any:
        """Runs the network on ``(B, H, W, 3)`` uint8 inputs, made by the input rule; what it says, :meth:`read` reads.

        B may be any number, whatever ``batch`` is.
        """

    def read(self, outputs: Any, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Reads what :meth:`answer` says of a batch as predictions of each task, in the pixels of each image."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An image that the model has seen.

    Attributes:
        path: Its file.
        size: Its height and width.
        predictions: For each task what the model sees, in pixels of the image.
    """

    path: Path
    size: tuple[int, int]
    predictions: dict[Task, Prediction]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that gave no image.

    Attributes:
        path: The file.
        error: Why, in one sentence.
    """

    path: Path
    error: str


def count_workers(cores: int, images: int) -> int:
    """Returns how many images to see at a time, each on its share of the cores.

    As many as there are cores, each seen by one of them, is the quickest: nobody waits for anybody.
    """
    return max(1, min(cores, images, _MOST_WORKERS))


class Predictor:
    """Reads images and has a model see them, several at a time.

    Each worker is a thread that does all there is to do for an image, with a copy of the model of its own.

    Args:
        model: What sees the images; the first worker's.
        batch_size: Images that a worker reads and sees at a time, memory grows with it; None for as many as the
            network takes, or one where it takes any number.
        workers: How many there are.

    Attributes:
        stages: What has been spent on reading, the network and its answers so far.

    Raises:
        UserError: ``batch_size`` is no whole number from 1 up.
    """

    def __init__(self, model: ImageModel, batch_size: int | None = None, *, workers: int = 1) -> None:
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
            paths: Of the images.
            finish: Called in the workers' threads with the place of a path and its result.
        """
        workers = [partial(self._see, model, paths, finish) for model in self._models]
        for results in in_order(workers, range(0, len(paths), self._batch_size)):
            yield from results

    def _see(
        self,
        model: ImageModel,
        paths: Sequence[Path],
        finish: Callable[[int, Seen | Unreadable], Result],
        start: int,
    ) -> list[Result]:
        batch = paths[start : start + self._batch_size]
        with self.stages.timing("reading"):
            images = [_read(path, model.input) for path in batch]
        inputs = [image for image in images if not isinstance(image, Unreadable)]
        predictions = iter(self._predict(model, inputs) if inputs else [])
        results: list[Result] = []
        for place, (path, image) in enumerate(zip(batch, images, strict=True), start):
            if isinstance(image, Unreadable):
                results.append(finish(place, image))
            else:
                results.append(finish(place, Seen(path, image[1].image, next(predictions))))
        return results

    def _predict(self, model: ImageModel, inputs: Sequence[tuple[Image, Placement]]) -> list[dict[Task, Prediction]]:
        images, placements = zip(*inputs, strict=True)
        with self.stages.timing("network"):
            outputs = model.outputs(np.stack(images))
        with self.stages.timing("answers"):
            return model.read(outputs, placements)


def _read(path: Path, preprocess: Preprocess) -> tuple[Image, Placement] | Unreadable:
    try:
        return preprocess_file(path, preprocess)
    except UnreadableImageError as error:
        return Unreadable(path, str(error))
