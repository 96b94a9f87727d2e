"""Loading weights into a model that is not quite theirs, with an account of every tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of every tensor.

    Attributes:
        loaded: Names of the tensors that the model took.
        skipped: Tensors of the weights that it did not take, and why.
        missing: Tensors of the model that the weights have no values for, and why; they stay as they were.
    """

    loaded: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: Mapping[str, str]

    def table(self) -> Table:
        """Returns the account for people: a row for each part whose tensors all fared alike, as large as can be."""
        fates: dict[str, str] = dict.fromkeys(self.loaded, "loaded")
        for what, tensors in (("missing, stay fresh", self.missing), ("skipped", self.skipped)):
            for name, reason in tensors.items():
                # A tensor of another shape is skipped as well as missing; its one line tells both.
                fates[name] = f"{what}: {reason}"
        table = Table("part", "tensors", "what became of them", box=SIMPLE_HEAD)
        for part, count, fate in _summarize(fates, depth=1):
            table.add_row(part, str(count), fate)
        return table


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """Copies every tensor that fits into ``model`` and leaves the rest of it alone.

    Args:
        model: What takes the tensors, by the names of its ``state_dict``.
        tensors: By the same names.
    """
    own = model.state_dict()
    loaded: list[str] = []
    skipped: dict[str, str] = {}
    missing = {name: "the weights have none" for name in own if name not in tensors}
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name not in own:
                skipped[name] = "this model has no such part"
            elif own[name].shape != tensor.shape:
                skipped[name] = missing[name] = (
                    f"{_shape(tensor)} in the weights, {_shape(own[name])} here; stays fresh"
                )
            else:
                own[name].copy_(tensor)
                loaded.append(name)
    return LoadReport(tuple(loaded), skipped, missing)


def _summarize(fates: Mapping[str, str], depth: int) -> list[tuple[str, int, str]]:
    """Merges tensors by the first ``depth`` steps of their names, and by more where they fared differently."""
    groups: dict[str, dict[str, str]] = {}
    for name, fate in fates.items():
        groups.setdefault(".".join(name.split(".")[:depth]), {})[name] = fate
    rows: list[tuple[str, int, str]] = []
    for part, members in groups.items():
        if len(set(members.values())) == 1:
            rows.append((part, len(members), next(iter(members.values()))))
        else:
            rows += _summarize(members, depth + 1)
    return rows


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
