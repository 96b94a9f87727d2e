"""Result: what a model predicts for one image, as values, as a line of ``predictions.jsonl`` and as a drawing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError, first_few
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.imaging.colors import BACKGROUND, palette
from mbv2kit.imaging.draw import BEST, DRAW_MIN_SCORE, annotate_together
from mbv2kit.imaging.encode import encode_jpeg, encode_mask
from mbv2kit.imaging.images import decode
from mbv2kit.inference.records import Record, describe, shares
from mbv2kit.structures import (
    TASKS,
    BoxClasses,
    Boxes,
    Classification,
    Detections,
    Image,
    Prediction,
    Segmentation,
    Task,
)

if TYPE_CHECKING:
    import supervision

# Boxes of a lower score are no part of a result.
MIN_SCORE = 0.05
_JPEG = (".jpg", ".jpeg")
_PROPERTIES: Mapping[Task, str] = {
    "classification": "top(), labels, scores and class_ids",
    "detection": "boxes, labels, scores and class_ids",
    "segmentation": "mask and fractions",
}

# The task of each type of prediction.
_TASKS: Mapping[type[Prediction], Task] = {
    Classification: "classification",
    Detections: "detection",
    Segmentation: "segmentation",
}

# Tasks whose predictions have classes with scores.
_RANKING: Sequence[Task] = ("classification", "detection")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result:
    """The prediction of a model for one image, in the pixels of that image.

    The properties are those of the model's tasks; any other one raises AttributeError:

    * classification: :meth:`top`, and ``labels``, ``scores`` and ``class_ids`` of all classes, best first;
    * detection: ``boxes``, ``labels``, ``scores`` and ``class_ids`` of the objects, best first, and ``then_labels``,
      ``then_scores`` and ``then_class_ids`` where a second model classified them;
    * segmentation: ``mask`` and ``fractions``.

    With several heads, a property that two of them have needs the name of one: ``result["detection"].labels``. All the
    others need none, and :meth:`to_dict`, :meth:`plot` and :meth:`save` put the heads together. A head is called as its
    task, unless it has a name of its own.

    Attributes:
        path: The image's file; None for an image that was passed as an array or as the content of a file.
        size: Height and width of the image; zeros where it could not be read.
        predictions: The prediction of each head; none where the image could not be read.
        class_names: For each head the names of its classes, by class id.
        min_score: Boxes of a lower score are left out, 0..1.
        pixels: ``(H, W, 3)`` uint8 RGB of an image that was passed as an array; None for a file.
        error: Why the file could not be read, in one sentence; None if it was.
        then_class_names: Names of the classes of a second model that classified the boxes, by class id.
    """

    path: Path | None
    size: tuple[int, int]
    predictions: Mapping[str, Prediction]
    class_names: Mapping[str, Sequence[str]]
    min_score: float = MIN_SCORE
    pixels: Image | None = None
    error: str | None = None
    then_class_names: Sequence[str] = ()

    def __getitem__(self, head: str) -> "Result":
        """Returns the result of one of the model's heads.

        Raises:
            UserError: The model has no such head, or the image could not be read.
        """
        if self.error is not None:
            raise UserError(self.error)
        if head not in self.predictions:
            raise UserError(f"The model does {' and '.join(self.predictions)}, not {head}.")
        return replace(self, predictions={head: self.predictions[head]})

    @property
    def task(self) -> Task:
        """The task, where the model has only one head."""
        return _task_of(self.predictions[self._head_of("task", *_PROPERTIES)])

    @property
    def image(self) -> Image:
        """``(H, W, 3)`` uint8 RGB pixels of the image, read anew if it is a file."""
        if self.pixels is not None:
            return self.pixels
        assert self.path is not None
        return decode(self.path)

    @property
    def boxes(self) -> Boxes:
        """``(N, 4)`` float32: the corners x1, y1, x2 and y2 of the objects, in pixels."""
        return self._detections("boxes").boxes

    @property
    def scores(self) -> NDArray[np.float32]:
        """``(N,)`` float32 in 0..1: the scores of the objects, or of all classes."""
        return self._ranking("scores").scores

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """``(N,)`` int64: the classes of the objects, or all classes."""
        return self._ranking("class_ids").class_ids

    @property
    def labels(self) -> list[str]:
        """The names of :attr:`class_ids`."""
        names = self.class_names[self._head_of("labels", *_RANKING)]
        return [names[class_id] for class_id in self._ranking("labels").class_ids.tolist()]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """``(H, W)`` uint8: the class of every pixel."""
        prediction = self.predictions[self._head_of("mask", "segmentation")]
        assert isinstance(prediction, Segmentation)
        return prediction.mask

    @property
    def fractions(self) -> dict[str, float]:
        """The share of the pixels that each class has, 0..1, for the classes that are in the image."""
        head = self._head_of("fractions", "segmentation")
        return shares(self.mask, self.class_names[head])

    @property
    def then_labels(self) -> list[str]:
        """The names of :attr:`then_class_ids`."""
        return [self.then_class_names[class_id] for class_id in self._then("then_labels").class_ids.tolist()]

    @property
    def then_scores(self) -> NDArray[np.float32]:
        """``(N,)`` float32 in 0..1: the scores of :attr:`then_class_ids`."""
        return self._then("then_scores").scores

    @property
    def then_class_ids(self) -> NDArray[np.int64]:
        """``(N,)`` int64: the best class of each object by the second model (:meth:`Predictor.then`)."""
        return self._then("then_class_ids").class_ids

    def top(self, count: int = BEST) -> list[tuple[str, float]]:
        """Returns the names and scores of the most likely classes, best first."""
        if not isinstance(count, int) or count < 0:
            raise UserError(f"top() takes a whole number of classes from 0 up, got {count!r}.")
        found = self[self._head_of("top()", "classification")]
        return list(zip(found.labels[:count], found.scores[:count].tolist(), strict=True))

    def to_dict(self, mask: str | Mapping[str, str] | None = None, drawing: str | None = None) -> Record:
        """Returns the line of ``predictions.jsonl`` for the image, ready for JSON.

        It has the keys of each task next to each other, and ``tasks`` in place of ``task`` if there are several. The
        keys of heads with names of their own are in ``heads``, by these names.

        Args:
            mask: Path of a file with the mask that the line is to name, or a path for each head; None for none.
            drawing: Path of a file with the drawing that the line is to name; None for none.
        """
        image = None if self.path is None else str(self.path)
        if self.error is not None:
            return {"image": image, "error": self.error}
        tasks = list(dict.fromkeys(map(_task_of, self.predictions.values())))
        masks = {"segmentation": mask} if isinstance(mask, str) else mask or {}
        line: Record = {"image": image, "width": self.size[1], "height": self.size[0]}
        line |= {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}
        files = {"drawing": drawing, "mask": masks.get("segmentation")}
        line |= {name: file for name, file in files.items() if file is not None}
        for head, prediction in self.predictions.items():
            keys = describe(prediction, self.class_names[head], self.min_score, self.then_class_names)
            if head in TASKS:
                line |= keys
            else:
                own = {"mask": masks[head]} if head in masks else {}
                line.setdefault("heads", {})[head] = own | keys
        return line

    def to_supervision(self) -> "supervision.Detections | supervision.Classifications":
        """Returns the result as a type of the package supervision.

        Objects become ``Detections``, and so do the classes of a mask except its background, each with the box around
        its pixels; ``data["class_name"]`` holds the names, and ``data["then_class_name"]`` those of a second model.
        Classes of an image become ``Classifications``.

        Raises:
            UserError: The package supervision is not installed.
        """
        from mbv2kit.inference.to_supervision import to_supervision

        head = self._head_of("to_supervision()", *_PROPERTIES)
        shown = self._detections("boxes") if self.task == "detection" else self.predictions[head]
        return to_supervision(shown, self.class_names[head], self.then_class_names)

    def plot(self, min_score: float = DRAW_MIN_SCORE) -> Image:
        """Draws the prediction: boxes with names, colored regions, the most likely classes below the image.

        A model of several heads has all of them on one drawing; ``result["detection"].plot()`` draws one.

        Args:
            min_score: Boxes of a lower score are not drawn, 0..1.

        Returns:
            ``(H, W, 3)`` uint8 RGB, with the text below the image; a small image is enlarged so that text is readable.
        """
        check_score("min_score", min_score)
        self._check_readable()
        drawn = [(prediction, self._drawn_names(head)) for head, prediction in self.predictions.items()]
        return annotate_together(self.image, drawn, min_score, self.then_class_names)

    def save(self, path: str | Path, min_score: float = DRAW_MIN_SCORE) -> Path:
        """Writes the drawing of :meth:`plot` to a file, in the format of its suffix.

        Returns:
            ``path``; a missing folder is created.

        Raises:
            TooLargeError: A JPEG cannot be as large as the drawing.
            UserError: The suffix is not that of an image, or the file cannot be written.
        """
        drawing, path = self.plot(min_score), Path(path)
        jpeg = path.suffix.lower() in _JPEG
        if not jpeg and path.suffix.lower() not in PillowImage.registered_extensions():
            raise UserError(f"{path} has no suffix of an image format; name a file such as result.jpg.")
        with disk_errors_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if jpeg:
                path.write_bytes(encode_jpeg(drawing))
            else:
                PillowImage.fromarray(drawing).save(path)
        return path

    def save_mask(self, path: str | Path) -> Path:
        """Writes the mask as a palette PNG, as VOC does: a viewer shows colors, a program reads class ids.

        Returns:
            ``path``; a missing folder is created.

        Raises:
            UserError: The file cannot be written.
        """
        data, path = self.encode_mask(), Path(path)
        with disk_errors_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return path

    def encode_mask(self) -> bytes:
        """Returns the file that :meth:`save_mask` writes."""
        names = self.class_names[self._head_of("save_mask()", "segmentation")]
        return encode_mask(self.mask, palette(names))

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Result({self.error})"
        name = "array" if self.path is None else str(self.path)
        found = "; ".join(_summary(self[head]) for head in self.predictions)
        return f"Result({name}, {self.size[1]} x {self.size[0]}: {found})"

    def _repr_jpeg_(self) -> bytes | None:
        """Returns the drawing, which notebooks show."""
        return encode_jpeg(self.plot()) if self.error is None else None

    def _check_readable(self) -> None:
        if self.error is not None:
            raise UserError(self.error)

    def _drawn_names(self, head: str) -> Sequence[str]:
        """Returns the names of the classes of a head; a name of its own tells labels of two heads apart."""
        names = self.class_names[head]
        if head in TASKS:
            return names
        # The background of masks is known by its name.
        return [name if name == BACKGROUND else f"{head}: {name}" for name in names]

    def _head_of(self, name: str, *tasks: Task) -> str:
        """Returns the head that the property ``name`` is of: the only one of the model's that does one of ``tasks``."""
        self._check_readable()
        found = [head for head, prediction in self.predictions.items() if _task_of(prediction) in tasks]
        if len(found) == 1:
            return found[0]
        does = " and ".join(self.predictions)
        if found:
            raise AttributeError(f'The model does {does}; write result["{found[0]}"].{name}')
        has = "; ".join(dict.fromkeys(_PROPERTIES[_task_of(each)] for each in self.predictions.values()))
        raise AttributeError(f"A result of {does} has no {name}; it has {has}.")

    def _ranking(self, name: str) -> Classification | Detections:
        prediction = self.predictions[self._head_of(name, *_RANKING)]
        assert not isinstance(prediction, Segmentation)
        return prediction.at_least(self.min_score) if isinstance(prediction, Detections) else prediction

    def _detections(self, name: str) -> Detections:
        prediction = self.predictions[self._head_of(name, "detection")]
        assert isinstance(prediction, Detections)
        return prediction.at_least(self.min_score)

    def _then(self, name: str) -> BoxClasses:
        then = self._detections(name).then
        if then is None:
            raise AttributeError(f"The boxes have no {name}: no second model classified them; see Predictor.then.")
        return then


def _task_of(prediction: Prediction) -> Task:
    return _TASKS[type(prediction)]


def check_score(name: str, value: object) -> None:
    """Checks a lowest score.

    Raises:
        UserError: It is no number in 0..1.
    """
    if not isinstance(value, Real) or not 0 <= value <= 1:  # type: ignore[operator]
        raise UserError(f"{name} must be in 0..1, got {value!r}.")


def _summary(result: Result) -> str:
    """Returns what was predicted in a few words."""
    if result.task == "classification":
        return ", ".join(f"{label} {score:.2f}" for label, score in result.top(3))
    if result.task == "detection":
        labels = result.labels
        if result.then_class_names:
            labels = [f"{label} ({then})" for label, then in zip(labels, result.then_labels, strict=True)]
        counts = Counter(labels)
        found = first_few(f"{count} {label}" for label, count in counts.most_common())
        return found or "no objects"
    fractions = sorted(result.fractions.items(), key=lambda item: -item[1])
    return first_few(f"{label} {fraction:.1%}" for label, fraction in fractions)
