"""Counts the classes of a split before training, so that data that teach nothing end in a sentence."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError, first_few
from mbv2kit.structures import Task

_log = logging.getLogger(__name__)

# Masks are read for it, a few milliseconds each.
_MOST_READ = 200
_MOST_WAITING = 100_000
_UNITS: dict[Task, str] = {"classification": "image", "detection": "object", "segmentation": "pixel"}
# More than the borders of objects, which data sets usually mark as void.
_MUCH_VOID = 0.5


@dataclass(frozen=True, slots=True)
class Census:
    """What the ground truth of some images holds.

    Attributes:
        counts: ``(K,)`` images, objects or pixels of each class.
        ignored: Those that do not count: crowds, or pixels of 255.
        images: Number of images that were looked at.
    """

    counts: NDArray[np.int64]
    ignored: int
    images: int

    @property
    def occurring(self) -> int:
        """Number of classes that occur."""
        return int(np.count_nonzero(self.counts))


def take_census(source: Source) -> Census:
    """Counts the classes of a source: of all images if it knows them, else of 200 that are evenly spread.

    If these hold one class or none, the others are read as well until a second class is found.
    """
    if source.knows_classes:
        return _count(source, range(len(source)))
    chosen = evenly_spaced(len(source), _MOST_READ)
    census = _count(source, chosen)
    if census.occurring < 2 and len(chosen) < len(source):
        others = sorted(set(range(len(source))) - set(chosen))
        census = _add(census, _count(source, others, until=int(census.counts.argmax())))
    return census


def _count(source: Source, indices: Iterable[int], until: int | None = None) -> Census:
    """Counts the classes of some images, ``until`` one holds another class than this."""
    counts = np.zeros(len(source.class_names) + 1, dtype=np.int64)
    images, waiting = 0, 0
    rows: list[NDArray[np.int64]] = []
    for index in indices:
        rows.append(source.class_ids(index))
        images += 1
        waiting += len(rows[-1]) + 1
        found = until is not None and bool(((rows[-1] >= 0) & (rows[-1] != until)).any())
        # numpy counts many small rows at once; rows of pixels would take much memory.
        if found or waiting > _MOST_WAITING:
            counts += _bins(rows, len(counts))
            rows, waiting = [], 0
        if found:
            break
    counts += _bins(rows, len(counts))
    return Census(counts[1:], int(counts[0]), images)


def _bins(rows: list[NDArray[np.int64]], size: int) -> NDArray[np.int64]:
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *rows]) + 1, minlength=size)


def _add(first: Census, second: Census) -> Census:
    return Census(first.counts + second.counts, first.ignored + second.ignored, first.images + second.images)


def check_classes(source: Source, task: Task, split: str, *, trains: bool) -> None:
    """Takes a census of a split and warns of what it lacks.

    Args:
        source: The split.
        task: Its task.
        split: Its name, for messages.
        trains: Whether it is trained on, not only measured.

    Raises:
        UserError: Nothing can be learned from it: no class occurs, or only one, unless a detector finds its objects.
    """
    census = take_census(source)
    problem = _problem(census, source, task)
    if problem and trains:
        raise UserError(f"The split '{split}' cannot be trained on: {problem}.")
    if problem:
        _log.warning("The split '%s' cannot be scored: %s", split, problem)
        return
    missing = [name for name, count in zip(source.class_names, census.counts, strict=True) if not count]
    if missing:
        _log.warning(
            "%d of %d classes occur in no %s of %s: %s%s",
            len(missing),
            len(source.class_names),
            "mask" if task == "segmentation" else _UNITS[task],
            f"the split '{split}'" if census.images == len(source) else _sample(census, source, split),
            first_few(missing),
            _void(census, source, task),
        )
    elif census.ignored > _MUCH_VOID * (census.ignored + census.counts.sum()) and task == "segmentation":
        _log.warning("The split '%s'%s", split, _void(census, source, task).replace("; ", ": "))


def _problem(census: Census, source: Source, task: Task) -> str | None:
    """Returns why a split is of no use, or None."""
    void = _void(census, source, task)
    if not census.occurring:
        only = f", only {census.ignored} that are crowds or ignored" if task == "detection" and census.ignored else ""
        return f"its {len(source)} images hold no {_UNITS[task]} of any class{only}{void}; check the annotations"
    if task == "detection" or len(source.class_names) < 2 or census.occurring > 1:
        return None
    only = source.class_names[int(census.counts.argmax())]
    return (
        f"all of its {len(source)} images hold class '{only}' and no other{void}; expected at least two of "
        f"{first_few(source.class_names)}"
    )


def _void(census: Census, source: Source, task: Task) -> str:
    pixels = census.ignored + int(census.counts.sum())
    if task != "segmentation" or source.knows_classes or not census.ignored:
        return ""
    return f"; {100 * census.ignored / pixels:.0f} % of the pixels are void (255)"


def _sample(census: Census, source: Source, split: str) -> str:
    return f"the {census.images} of {len(source)} images of the split '{split}' that were looked at"
