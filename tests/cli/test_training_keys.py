"""Keys of training do what they say, through the command: each is tried on a run of a few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mbv2kit.commands.train import job
from mbv2kit.evaluation import Scores
from mbv2kit.evaluation.evaluators.accuracy import Accuracy
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.finetune import FineTuning
from tests.cli.runs import State, changed, checkpoint, rows, state

Run = Callable[..., int]


@pytest.fixture
def train(run: Run, tiny: list[str], tmp_path: Path) -> Callable[..., RunFolder]:
    """Trains with some keys: two epochs of two steps, unless a key says otherwise."""

    def call(*keys: str, folder: str = "run") -> RunFolder:
        assert run("train", job, *tiny, "trainer.max_epochs=2", "ema.decay=null", f"run_dir={folder}", *keys) == 0
        return RunFolder(tmp_path / folder)

    return call


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


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def test_without_a_wish_every_statistic_moves(train: Callable[..., RunFolder], before: State) -> None:
    moved = changed(before, state(train()))
    assert {name for name in before if name.endswith(STATISTICS)} <= moved


@pytest.mark.shows("finetune.frozen_norms")
def test_frozen_norms_keep_every_statistic_of_the_backbone(train: Callable[..., RunFolder], before: State) -> None:
    run = train("finetune.frozen_norms=true", "task=detection", "input.size=[64,64]")
    moved = changed(before, state(run))
    still = {name for name in before if name.startswith("backbone.") and name.endswith(STATISTICS)}
    assert len(still) > 100
    assert not still & moved
    assert {"backbone.layers.layer_1.norm.weight", "backbone.layers.layer_1.norm.bias"} <= moved
    assert any(name.startswith("heads.") and name.endswith(STATISTICS) for name in moved)


@pytest.mark.shows("finetune.frozen_layers")
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


# The backbone's rate, the average and the end of a run.


@pytest.mark.shows("finetune.backbone_lr")
def test_a_backbone_without_a_rate_stays(train: Callable[..., RunFolder], before: State) -> None:
    moved = changed(before, state(train("finetune.backbone_lr=0")))
    assert {name for name in moved if not name.endswith(STATISTICS)} == {
        "heads.classification.linear.weight",
        "heads.classification.linear.bias",
    }


@pytest.mark.shows("ema.decay")
def test_the_average_is_what_is_saved_and_follows_its_decay(quick: Callable[..., RunFolder]) -> None:
    name = "heads.classification.linear.bias"
    distances = []
    for decay in ("0", "0.05"):
        run = quick(f"ema.decay={decay}", folder=f"decay_{decay}")
        found = checkpoint(run)["state_dict"]
        distances.append(float((found[f"average.model.{name}"] - found[f"model.{name}"]).abs().max()))
    assert distances[0] == 0
    assert distances[1] > 0


@pytest.mark.shows("trainer.early_stopping_patience")
def test_patience_ends_a_run_and_more_of_it_goes_on(
    train: Callable[..., RunFolder], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accuracy, "compute", lambda self: Scores({"top1": 0.5}, {}))
    folder = train("trainer.max_epochs=6", "trainer.early_stopping_patience=1")
    assert len(rows(folder)) == 2
    # As it is, the run is finished; and where its last step was all that was left to do, no step is added.
    assert run("train", job, f"resume={folder.path}") == 0
    folder.metrics.unlink()
    assert run("train", job, f"resume={folder.path}") == 0
    assert len(rows(folder)) == 2
    assert run("train", job, f"resume={folder.path}", "trainer.early_stopping_patience=3") == 0
    assert len(rows(folder)) == 4
    assert run("train", job, f"resume={folder.path}", "trainer.early_stopping_patience=null") == 0
    assert len(rows(folder)) == 6


def test_a_metric_that_is_nan_neither_stops_a_run_nor_makes_an_epoch_the_best(
    train: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([float("nan"), 0.5, float("inf"), 0.4, *[float("nan")] * 9])
    monkeypatch.setattr(Accuracy, "compute", lambda self: Scores({"top1": next(values)}, {}))
    keys = ("trainer.max_epochs=5", "trainer.early_stopping_patience=2", "loader.batch_size=8")
    best = train(*keys, folder="one")
    assert [row["val/top1"] for row in rows(best)] == ["", "0.5", "", "0.4", ""]
    assert torch.load(best.checkpoints / "best.ckpt", weights_only=True)["epoch"] == 1
    # Without any figure the last epoch is the model.
    none = train(*keys, folder="none")
    assert len(rows(none)) == 5
    assert not (none.checkpoints / "best.ckpt").exists()
    assert VisionModel.load(none.model).spec.origin["epoch"] == 5
    assert none.log.read_text().count("val/top1 cannot be computed on the validation split") == 1
