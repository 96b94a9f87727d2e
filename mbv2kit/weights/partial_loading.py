"""Loads weights into a model that differs from theirs, and reports what happened to every tensor."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Renamed:
    """A tensor of the weights whose rows belong to classes, in the order of the model's classes.

    Attributes:
        tensor: What to load; None if the model's own tensor stays.
        outcome: What happened to it, for the table.
    """

    tensor: Tensor | None
    outcome: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What happened to every tensor.

    Attributes:
        loaded: Names of the tensors that were copied into the model.
        skipped: Names of tensors of the weights that were not copied, with the reason.
        missing: Names of tensors of the model that keep their values, with the reason.
        renamed: Names of loaded tensors whose rows went by the names of classes, with the outcome.
    """

    loaded: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: Mapping[str, str]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> Table:
        """Returns a table with a row for each part of the model whose tensors have the same outcome.

        Parts that differ in one number share a row: ``classifiers.{0-3,5}``.
        """
        outcomes: dict[str, str] = {**dict.fromkeys(self.loaded, "loaded"), **self.renamed}
        for what, tensors in (("missing, stay fresh", self.missing), ("skipped", self.skipped)):
            for name, reason in tensors.items():
                # A tensor of another shape is both skipped and missing; its one row says both.
                outcomes[name] = f"{what}: {reason}"
        table = Table("part", "tensors", "outcome", box=SIMPLE_HEAD)
        for part, count, outcome in _merge_numbers(_summarize(outcomes, depth=1)):
            table.add_row(part, str(count), outcome)
        return table


def load_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor], renamed: Mapping[str, Renamed] | None = None
) -> LoadReport:
    """Copies every tensor that fits into ``model`` and leaves the rest of the model unchanged.

    Args:
        model: The model to change.
        tensors: Tensors by the names of the model's ``state_dict``.
        renamed: What to load in place of some of them, whose rows belong to classes.
    """
    renamed = renamed or {}
    own = model.state_dict()
    loaded: list[str] = []
    skipped: dict[str, str] = {}
    missing = {name: "the weights have none" for name in own if name not in tensors}
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name not in own:
                skipped[name] = "this model has no such part"
            elif name in renamed:
                if (moved := renamed[name]).tensor is None:
                    skipped[name] = missing[name] = moved.outcome
                else:
                    own[name].copy_(moved.tensor)
                    loaded.append(name)
            elif own[name].shape != tensor.shape:
                skipped[name] = missing[name] = other_shape(tensor, own[name])
            else:
                own[name].copy_(tensor)
                loaded.append(name)
    by_name = {name: renamed[name].outcome for name in loaded if name in renamed}
    return LoadReport(tuple(loaded), skipped, missing, by_name)


def _summarize(outcomes: Mapping[str, str], depth: int) -> list[tuple[str, int, str]]:
    """Merges tensors by the first ``depth`` steps of their names, and by more if their outcomes differ."""
    groups: dict[str, dict[str, str]] = {}
    for name, outcome in outcomes.items():
        groups.setdefault(".".join(name.split(".")[:depth]), {})[name] = outcome
    rows: list[tuple[str, int, str]] = []
    for part, members in groups.items():
        if len(set(members.values())) == 1:
            rows.append((part, len(members), next(iter(members.values()))))
        else:
            rows += _summarize(members, depth + 1)
    return rows


def _merge_numbers(rows: Iterable[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Merges rows with the same outcome whose parts differ only in their first number."""
    groups: dict[tuple[str, str, str], dict[int | None, int]] = {}
    for part, count, outcome in rows:
        found = re.match(r"(\D*)(\d+)(.*)", part)
        before, number, after = found.groups() if found else (part, None, "")
        groups.setdefault((before, after, outcome), {})[None if number is None else int(number)] = count
    return [
        (f"{before}{_in_short(list(counts))}{after}", sum(counts.values()), outcome)
        for (before, after, outcome), counts in groups.items()
    ]


def _in_short(numbers: Sequence[int | None]) -> str:
    """``[0, 1, 2, 5] -> {0-2,5}``; one number as it is."""
    if len(numbers) == 1:
        return "" if numbers[0] is None else str(numbers[0])
    runs: list[list[int]] = []
    for number in sorted(number for number in numbers if number is not None):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) + "}"


def other_shape(tensor: Tensor, own: Tensor) -> str:
    """Returns why a tensor of the weights was not copied into one of another shape."""
    return f"{_shape(tensor)} in the weights, {_shape(own)} here; stays fresh"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
