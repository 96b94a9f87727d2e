"""The images that a model trains on or is measured on, with every kind of ground truth that is known for each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.align import align_classes
from mbv2kit.data.sources import Source, open_source
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decoded_once
from mbv2kit.structures import Sample, Task

# The fields of a sample that hold the ground truth of a task; the first one says whether there is any.
FIELDS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("label",),
    "detection": ("boxes", "labels", "crowd", "annotated"),
    "segmentation": ("mask",),
}


class Joined:
    """One or more sources, a source for each task, as one list of images.

    Sources of the same data set are joined by the names of their images: a sample holds the ground truth of every task
    that has any for its image, and the image is read once. Images of different data sets stay apart, data set by data
    set.

    Args:
        sources: For each task its source.
        together: The tasks whose sources are of one data set, data set by data set; None for a single data set.

    Attributes:
        sources: For each task its source.
        together: As given.
        counts: Number of images of each data set, in the order of the list.
    """

    def __init__(self, sources: Mapping[Task, Source], together: Sequence[Sequence[Task]] | None = None) -> None:
        self.sources = dict(sources)
        self.together = [list(self.sources)] if together is None else [list(tasks) for tasks in together]
        self._places: dict[Task, NDArray[np.int64]] = {}
        joined = [_join([self.sources[task] for task in tasks]) for tasks in self.together]
        self.counts = tuple(places.shape[1] for places in joined)
        for tasks, places, start in zip(self.together, joined, np.cumsum((0, *self.counts)), strict=False):
            for task, row in zip(tasks, places, strict=True):
                everywhere = np.full(sum(self.counts), -1, dtype=np.int64)
                everywhere[start : start + len(row)] = row
                self._places[task] = everywhere

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: int) -> Sample:
        parts = self.parts(index)
        with decoded_once():
            samples = {task: self.sources[task][place] for task, place in parts.items()}
        (_, sample), *others = samples.items()
        for task, other in others:
            if other.image.shape != sample.image.shape:
                raise UserError(
                    f"{sample.image_id}: the image has {_size(sample)} pixels for one task, {_size(other)} for {task}; "
                    "one data set must show it alike to all."
                )
            fields: dict[str, Any] = {name: getattr(other, name) for name in FIELDS[task]}
            sample = replace(sample, **fields)
        return sample

    @property
    def class_names(self) -> dict[Task, tuple[str, ...]]:
        """For each task the names of its classes, by class id."""
        return {task: source.class_names for task, source in self.sources.items()}

    def aligned(self, class_names: Mapping[Task, Sequence[str]], leave_out: bool = False) -> "Joined":
        """Returns the same images with the class ids of a model.

        Args:
            class_names: For each task the model's classes, in the model's order.
            leave_out: Whether objects of classes that the model does not know are left out; they are no mistakes of a
                detector.

        Raises:
            UserError: A data set has classes that the model does not know; see :func:`align_classes`.
        """
        sources = {
            task: align_classes(source, class_names[task], leave_out=leave_out and task == "detection")
            for task, source in self.sources.items()
        }
        return Joined(sources, self.together)

    def parts(self, index: int) -> dict[Task, int]:
        """Returns the tasks that have ground truth for image ``index``, with the place of it in their source."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside {len(self)} images")
        return {task: int(places[index]) for task, places in self._places.items() if places[index] >= 0}


def open_joined(
    datasets: Mapping[Task, Mapping[str, Any]], key: Literal["train_split", "val_split"], split: str | None = None
) -> Joined:
    """Opens a split of the data set of each task; tasks with equal data sets share their images.

    Args:
        datasets: For each task the ``dataset`` of a config.
        key: Which of its splits to open.
        split: Name of a split in place of that one.

    Raises:
        UserError: A data set does not support its task, or its root or split does not exist.
    """
    sources = {task: open_source(dataset, task, split or dataset[key]) for task, dataset in datasets.items()}
    together: list[list[Task]] = []
    for task, dataset in datasets.items():
        group = next((group for group in together if datasets[group[0]] == dataset), None)
        if group is None:
            together.append([task])
        else:
            group.append(task)
    return Joined(sources, together)


def has_ground_truth(sample: Sample, task: Task) -> bool:
    """Tells whether a sample holds the ground truth of a task."""
    return getattr(sample, FIELDS[task][0]) is not None


def _join(sources: Sequence[Source]) -> NDArray[np.int64]:
    """Returns the place of each image in each source, ``(S, N)``, -1 where a source has no such image."""
    if len(sources) == 1:
        return np.arange(len(sources[0]))[None]
    numbers: dict[tuple[str, int], int] = {}
    rows = [[numbers.setdefault(name, len(numbers)) for name in _distinct(source.image_names())] for source in sources]
    places = np.full((len(sources), len(numbers)), -1, dtype=np.int64)
    for row, columns in zip(places, rows, strict=True):
        row[columns] = np.arange(len(columns))
    return places


def _distinct(names: Iterable[str]) -> Iterable[tuple[str, int]]:
    """Yields each name with the number of its earlier occurrences."""
    seen: Counter[str] = Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1


def _size(sample: Sample) -> str:
    return f"{sample.image.shape[1]} x {sample.image.shape[0]}"
