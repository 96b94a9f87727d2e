"""Keys of training do what they say, through the command: each is tried on a run of a few steps."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mbv2kit.commands.train import job
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.training.finetune import FineTuning

Run = Callable[..., int]
State = dict[str, Tensor]


@pytest.fixture
def train(run: Run, tiny: list[str], tmp_path: Path) -> Callable[..., RunFolder]:
    """Trains with some keys: two epochs of two steps, unless a key says otherwise."""

    def call(*keys: str, folder: str = "run") -> RunFolder:
        assert run("train", job, *tiny, "trainer.max_epochs=2", "ema.decay=null", f"run_dir={folder}", *keys) == 0
        return RunFolder(tmp_path / folder)

    return call


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


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> State:
    """The state in which the last run began; filled as it begins."""
    found: State = {}
    original = FineTuning.freeze

    def freeze(self: FineTuning, model: Any) -> Any:
        found.clear()
        found.update({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return original(self, model)

    monkeypatch.setattr(FineTuning, "freeze", freeze)
    return found


def changed(before: State, after: State) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_without_a_wish_every_statistic_moves(train: Callable[..., RunFolder], before: State) -> None:
    moved = changed(before, state(train()))
    assert {name for name in before if name.endswith(STATISTICS)} <= moved


def test_frozen_norms_keep_every_statistic_of_the_backbone(train: Callable[..., RunFolder], before: State) -> None:
    run = train("finetune.frozen_norms=true", "task=detection", "input.size=[64,64]")
    moved = changed(before, state(run))
    still = {name for name in before if name.startswith("backbone.") and name.endswith(STATISTICS)}
    assert len(still) > 100
    assert not still & moved
    assert {"backbone.layers.layer_1.norm.weight", "backbone.layers.layer_1.norm.bias"} <= moved
    assert any(name.startswith("heads.") and name.endswith(STATISTICS) for name in moved)


def test_frozen_layers_keep_weights_and_statistics(train: Callable[..., RunFolder], before: State) -> None:
    run = train("finetune.frozen_layers=layer_7")
    moved = changed(before, state(run))
    still = {name for name in before if name.startswith(tuple(f"backbone.layers.layer_{k}." for k in range(1, 8)))}
    assert len(still) > 50
    assert not still & moved
    assert "backbone.layers.layer_8.expand.norm.running_mean" in moved


def test_frozen_parts_stay_frozen_after_a_resume(
    train: Callable[..., RunFolder], run: Run, before: State, tmp_path: Path
) -> None:
    folder = train("finetune.frozen_norms=true", "trainer.max_epochs=1")
    first = dict(before)
    assert run("train", job, f"resume={folder.path}", "trainer.max_epochs=3") == 0
    moved = changed(first, state(folder))
    assert not {name for name in moved if name.startswith("backbone.") and name.endswith(STATISTICS)}
    assert checkpoint(folder)["epoch"] == 2
