"""What tests read from the folder of a run."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbv2kit.models.run_folder import RunFolder

State = dict[str, Tensor]


def checkpoint(run: RunFolder) -> dict[str, Any]:
    return torch.load(run.checkpoints / "last.ckpt", weights_only=True)  # type: ignore[no-any-return]


def state(run: RunFolder) -> State:
    return {
        name.removeprefix("model."): tensor
        for name, tensor in checkpoint(run)["state_dict"].items()
        if name.startswith("model.")
    }


def rows(run: RunFolder) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


def changed(before: State, after: State) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}
