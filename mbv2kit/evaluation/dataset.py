"""Which data set a model is measured on: the one that is named, or that of its run."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mbv2kit.data.sources import SOURCES
from mbv2kit.errors import UserError
from mbv2kit.files.urls import resolved
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.structures import Task

_log = logging.getLogger(__name__)


def datasets_of(
    named: Mapping[str, Any] | None, folder: ModelFolder | None, tasks: Mapping[str, Task]
) -> dict[str, dict[str, Any]]:
    """Returns the options of the data set to read for each head; see :func:`dataset_of`.

    Where a data set is named that does not serve all of the heads, the others are left out. So are those that the
    model's run has no data for, because it kept them.

    Args:
        named: The options of the data set that is named; None if there is none.
        folder: The model's folder.
        tasks: The heads, each with its task.

    Raises:
        UserError: There is no data set for a head, or the named one serves none.
    """
    found = {head: dataset_of(named, folder, head) for head in tasks}
    if named is not None and len(tasks) > 1:
        left_out = [head for head, task in tasks.items() if not serves(named, task)]
        if len(left_out) == len(tasks):
            raise UserError(
                f"dataset '{named['name']}' serves none of the model's tasks, {', '.join(tasks)}; name another one."
            )
        if left_out:
            _log.info("dataset '%s' has no ground truth for %s, which is left out", named["name"], ", ".join(left_out))
        found = {head: found[head] for head in tasks if head not in left_out}
        found = {head: found[head] for head in meant(named, folder, {head: tasks[head] for head in found})}
    unknown = [head for head, dataset in found.items() if dataset is None]
    if 0 < len(unknown) < len(found):
        _log.info("the run has no data for %s, which is left out; name some with dataset=", ", ".join(unknown))
        found = {head: dataset for head, dataset in found.items() if dataset is not None}
    return {head: needed(dataset) for head, dataset in found.items()}


def dataset_of(named: Mapping[str, Any] | None, folder: ModelFolder | None, head: str) -> dict[str, Any] | None:
    """Returns the options of the data set to read for a head.

    Where the data set of the model's run is named again, it is the run's: a model for scenes of 96 pixels is not
    measured on scenes of another size because ``dataset=shapes`` has a default. Options that differ from their defaults
    win.

    Args:
        named: The options of the data set that is named; None if there is none.
        folder: The model's folder.
        head: The head.

    Returns:
        The options; None if no data set is named and the model does not know one.
    """
    own = RunFolder(folder.path.parent).dataset(head) if folder else None
    if named is None or own is None:
        return own if named is None else dict(named)
    if not _same(named, own):
        return dict(named)
    defaults = SOURCES.keys(str(named["name"]))
    return {key: own.get(key, value) if value == defaults.get(key) else value for key, value in named.items()}


def meant(named: Mapping[str, Any], folder: ModelFolder | None, tasks: Mapping[str, Task]) -> list[str]:
    """Returns the heads that a named data set is for.

    Where several do one task, these are the ones that the run trained on it.

    Args:
        named: The options of the data set.
        folder: The model's folder.
        tasks: The heads whose task it serves, each with its task.

    Raises:
        UserError: Several heads do one task, and none of them was trained on the data set.
    """
    run = RunFolder(folder.path.parent) if folder else None
    heads: list[str] = []
    for task in dict.fromkeys(tasks.values()):
        its = [head for head in tasks if tasks[head] == task]
        if len(its) == 1:
            heads += its
            continue
        known = {head: None if run is None else run.dataset(head) for head in its}
        own = [head for head, dataset in known.items() if dataset is not None and _same(dataset, named)]
        if not own:
            raise UserError(
                f"The model has several heads for {task}, and dataset '{named['name']}' is that of none of them; name "
                f"the one to measure: {' or '.join(f'task={head}' for head in its)}."
            )
        if len(own) < len(its):
            _log.info(
                "dataset '%s' is that of %s; the other heads for %s are left out", named["name"], listed(own), task
            )
        heads += own
    return [head for head in tasks if head in heads]


def serves(dataset: Mapping[str, Any], task: Task) -> bool:
    """Tells whether a data set has ground truth for a task."""
    return task in SOURCES.get_class(str(dataset["name"])).provides


def needed(dataset: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the data set, or raises :class:`UserError` where there is none."""
    if dataset is None:
        raise UserError(
            "The model does not say which data set it was trained on; name one: dataset=NAME dataset.root=DIR."
        )
    return dataset


def listed(names: Iterable[str]) -> str:
    """Returns the names of several data sets or splits, each once."""
    return ", ".join(dict.fromkeys(names))


def describe_dataset(dataset: Mapping[str, Any], split: str, images: int, head: str = "") -> str:
    """Says in a line which images are read, and from where; ``head`` is named if there are several."""
    root = dataset.get("root")
    known = {"name", "root", "cache"}  # named already, or for training alone
    others = {key: value for key, value in dataset.items() if key not in known and "split" not in key}
    where = resolved(str(root)) if root else ", ".join(f"{key}={value}" for key, value in others.items())
    return f"Data{f' for {head}' if head else ''}: {dataset['name']}, split {split}, {images:,} images ({where})"


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one["name"] == other["name"]) and _same_place(one.get("root"), other.get("root"))


def _same_place(one: Any, other: Any) -> bool:
    return one == other or (bool(one and other) and Path(one).resolve() == Path(other).resolve())
