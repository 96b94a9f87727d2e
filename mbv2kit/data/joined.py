"""The images that a model trains on or is measured on, with every kind of ground truth that is known for each."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.align import align_classes
from mbv2kit.data.order import Blocks
from mbv2kit.data.sources import Source, open_source
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decoded_once
from mbv2kit.structures import Sample, Task, tasks_of_heads

# The fields of a sample that hold the ground truth of a task; the first one says whether there is any.
FIELDS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("label",),
    "detection": ("boxes", "labels", "crowd", "annotated"),
    "segmentation": ("mask",),
}


class Joined:
    """One or more sources, a source for each head of a model, as one list of images.

    Sources of the same data set are joined by the names of their images: a sample holds the ground truth of every head
    that has any for its image, and the image is read once. Images of different data sets stay apart, data set by data
    set, and so do those of heads of one task.

    Args:
        sources: For each head its source.
        together: The heads whose sources are of one data set, data set by data set; None for a single data set.
        tasks: The task of each head; needed of those with a name of their own.

    Attributes:
        sources: For each head its source.
        together: As given.
        tasks: The task of each head.
        counts: Number of images of each data set, in the order of the list.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        together: Sequence[Sequence[str]] | None = None,
        tasks: Mapping[str, Task] = MappingProxyType({}),
    ) -> None:
        self.sources = dict(sources)
        self.tasks = tasks_of_heads(sources, tasks)
        self.together = [list(self.sources)] if together is None else [list(heads) for heads in together]
        self._places: dict[str, NDArray[np.int64]] = {}
        joined = [_join([self.sources[head] for head in heads]) for heads in self.together]
        self.counts = tuple(places.shape[1] for places in joined)
        for heads, places, start in zip(self.together, joined, np.cumsum((0, *self.counts)), strict=False):
            for head, row in zip(heads, places, strict=True):
                everywhere = np.full(sum(self.counts), -1, dtype=np.int64)
                everywhere[start : start + len(row)] = row
                self._places[head] = everywhere

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: int) -> Sample:
        parts = self.parts(index)
        with decoded_once():
            samples = {head: self.sources[head][place] for head, place in parts.items()}
        (_, sample), *others = samples.items()
        for head, other in others:
            if other.image.shape != sample.image.shape:
                raise UserError(
                    f"{sample.image_id}: the image has {_size(sample)} pixels for one task, {_size(other)} for {head}; "
                    "one data set must show it alike to all."
                )
            fields: dict[str, Any] = {name: getattr(other, name) for name in FIELDS[self.tasks[head]]}
            sample = replace(sample, **fields)
        named = {self.tasks[head]: head for head in parts if self.tasks[head] != head}
        return replace(sample, heads=named) if named else sample

    def image_file(self, index: int) -> Path | None:
        """Returns the file of image ``index``; None where a source does not name it, or sources name several."""
        files = {self.sources[head].image_file(place) for head, place in self.parts(index).items()}
        return files.pop() if len(files) == 1 else None

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """For each head the names of its classes, by class id."""
        return {head: source.class_names for head, source in self.sources.items()}

    @property
    def blocks(self) -> list[Blocks | None]:
        """How the images of each data set lie; None for those that any order reads as fast."""
        ends = pairwise(np.cumsum((0, *self.counts)).tolist())
        return [self._blocks(heads, *between) for heads, between in zip(self.together, ends, strict=True)]

    def _blocks(self, heads: Sequence[str], start: int, end: int) -> Blocks | None:
        numbers = np.zeros(end - start, dtype=np.int64)
        # The heads of a data set read the same images, so any that has an image knows its block.
        for head in heads:
            known, places = self.sources[head].blocks(), self._places[head][start:end]
            if known is None:
                return None
            numbers[places >= 0] = known[places[places >= 0]]
        return Blocks(numbers, self.sources[heads[0]].shuffle_window)

    def aligned(self, class_names: Mapping[str, Sequence[str]], leave_out: bool = False) -> "Joined":
        """Returns the same images with the class ids of a model.

        Args:
            class_names: For each head the model's classes, in the model's order.
            leave_out: Whether objects of classes that the model does not know are left out; they are no mistakes of a
                detector.

        Raises:
            UserError: A data set has classes that the model does not know; see :func:`align_classes`.
        """
        sources = {
            head: align_classes(source, class_names[head], leave_out=leave_out and self.tasks[head] == "detection")
            for head, source in self.sources.items()
        }
        return Joined(sources, self.together, self.tasks)

    def parts(self, index: int) -> dict[str, int]:
        """Returns the heads that have ground truth for image ``index``, with the place of it in their source."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside {len(self)} images")
        return {head: int(places[index]) for head, places in self._places.items() if places[index] >= 0}


def open_joined(
    datasets: Mapping[str, Mapping[str, Any]],
    tasks: Mapping[str, Task],
    key: Literal["train_split", "val_split"],
    split: str | None = None,
) -> Joined:
    """Opens a split of the data set of each head; heads with equal data sets share their images.

    Args:
        datasets: For each head the ``dataset`` of a config.
        tasks: The task of each head.
        key: Which of its splits to open.
        split: Name of a split in place of that one.

    Raises:
        UserError: A data set does not support its task, or its root or split does not exist.
    """
    sources = {head: open_source(dataset, tasks[head], split or dataset[key]) for head, dataset in datasets.items()}
    return Joined(sources, join_heads(datasets, tasks), tasks)


def join_heads(datasets: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Task]) -> list[list[str]]:
    """Returns the heads whose sources are joined: those of different tasks on equal data sets.

    Args:
        datasets: For each head the ``dataset`` of a config.
        tasks: The task of each head.
    """
    together: list[list[str]] = []
    for head, dataset in datasets.items():
        for group in together:
            if datasets[group[0]] == dataset and tasks[head] not in [tasks[other] for other in group]:
                group.append(head)
                break
        else:
            together.append([head])
    return together


def has_ground_truth(sample: Sample, head: str, task: Task) -> bool:
    """Tells whether a sample holds the ground truth of a head, which is for a task."""
    return getattr(sample, FIELDS[task][0]) is not None and sample.heads.get(task, task) == head


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
