"""From picture files to predictions in the pixels of each picture, batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mbv2kit.errors import UserError
from mbv2kit.images import UnreadableImageError, decode
from mbv2kit.structures import Image, Prediction, Task

if TYPE_CHECKING:
    from mbv2kit.model import VisionModel
    from mbv2kit.splitting import SplitModel


class PictureModel(Protocol):
    """What a predictor asks of a model; :class:`mbv2kit.model.VisionModel` is one, with or without augmentation."""

    @property
    def class_names(self) -> Mapping[Task, Sequence[str]]:
        """For each task of the model the names of its classes, by class id."""

    def predict(self, images: Sequence[Image]) -> list[dict[Task, Prediction]]:
        """Returns for each picture the prediction of each task, in pixels of the picture."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture that the model has seen.

    Attributes:
        path: Its file.
        image: Its pixels, ``(H, W, 3)`` uint8 RGB.
        predictions: For each task what the model sees, in pixels of the picture.
    """

    path: Path
    image: Image
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


class Predictor:
    """Reads pictures and has a model see them.

    Args:
        model: What sees the pictures.
        batch_size: Pictures that are read and seen at a time; memory grows with it.

    Raises:
        UserError: ``batch_size`` is no whole number from 1 up.
    """

    def __init__(self, model: PictureModel, batch_size: int = 8) -> None:
        # A configuration may hold anything.
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size must be a whole number from 1 up, got {batch_size}.")
        self.model = model
        self.batch_size = batch_size

    def predict(self, paths: Sequence[Path]) -> Iterator[Seen | Unreadable]:
        """Yields a result for each path, in their order; a file that cannot be read does not stop the others."""
        for start in range(0, len(paths), self.batch_size):
            batch = paths[start : start + self.batch_size]
            pictures = [_read(path) for path in batch]
            images = [picture for picture in pictures if not isinstance(picture, Unreadable)]
            predictions = iter(self.model.predict(images) if images else [])
            for path, picture in zip(batch, pictures, strict=True):
                if isinstance(picture, Unreadable):
                    yield picture
                else:
                    yield Seen(path, picture, next(predictions))


def _read(path: Path) -> Image | Unreadable:
    try:
        return decode(path)
    except UnreadableImageError as error:
        return Unreadable(path, str(error))


def load_model(
    checkpoint: str | None, task: str | None = None, *, output_stride: int | None = None, tta: str = "none"
) -> tuple[PictureModel, str]:
    """Loads the model that a ``checkpoint`` key stands for, on the CPU.

    Args:
        checkpoint: A run, model folder, published file or name; None for the newest finished run.
        task: Which runs count where no checkpoint is named; None for all.
        output_stride: Input pixels per step of the deepest map; None for that of the model.
        tta: Test-time augmentation under which the model sees, as :func:`mbv2kit.tta.augmented` knows it.

    Returns:
        The model and what to call it.

    Raises:
        UserError: There is no such model or augmentation, or the model is damaged.
    """
    from mbv2kit.tta import augmented, check_tta

    check_tta(tta)
    model, name = _open(checkpoint, task, output_stride)
    return augmented(model, tta), name


def load_split_model(
    checkpoint: str | None, task: str | None, *, output_stride: int | None, memory_budget: str | int
) -> "tuple[SplitModel, str]":
    """Loads a model to run within a budget of memory; see :func:`mbv2kit.splitting.plan_memory`.

    Args:
        checkpoint: See :func:`load_model`.
        task: See :func:`load_model`.
        output_stride: See :func:`load_model`.
        memory_budget: An amount of memory such as ``1MB`` or ``512kB``.

    Returns:
        The model and what to call it.

    Raises:
        UserError: There is no such model, it cannot run within the budget, or the budget is no amount of memory.
    """
    from mbv2kit.splitting import SplitModel, plan_memory
    from mbv2kit.splitting.budget import parse_bytes

    budget = parse_bytes(memory_budget)
    model, name = _open(checkpoint, task, output_stride)
    return SplitModel(model, plan_memory(model, model.input.size, budget)), name


def _open(checkpoint: str | None, task: str | None, output_stride: int | None) -> "tuple[VisionModel, str]":
    # Loaded here, so that all else in this package starts without torch.
    from mbv2kit.weights.open import open_model

    model, folder = open_model(checkpoint, task)
    if output_stride is not None:
        model = model.at_output_stride(output_stride)
    return model, str(folder or checkpoint)
