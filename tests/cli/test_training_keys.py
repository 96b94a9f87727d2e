"""Keys of training do what they say, through the command: each is tried on a run of a few steps."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mbv2kit.commands.train import job
from mbv2kit.evaluation import Scores
from mbv2kit.evaluation.evaluators.accuracy import Accuracy
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
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


# Schedules: metrics.csv has the rate of the last step of each epoch, of two steps each.

RATES = [
    ("scheduler=constant", [1, 1, 1, 1]),
    ("scheduler=constant scheduler.warmup_epochs=2", [0.5, 1, 1, 1]),
    ("scheduler=cosine scheduler.warmup_epochs=0", [0.961940, 0.691342, 0.308658, 0.038060]),
    (
        "scheduler=cosine scheduler.warmup_epochs=0 scheduler.final_fraction=0.5",
        [0.980970, 0.845671, 0.654329, 0.519030],
    ),
    ("scheduler=exponential scheduler.gamma=0.5", [1, 0.5, 0.25, 0.125]),
    ("scheduler=exponential scheduler.gamma=0.5 scheduler.decay_epochs=2", [1, 1, 0.5, 0.5]),
    ("scheduler=exponential scheduler.gamma=0.25 scheduler.staircase=false", [0.5, 0.125, 0.03125, 0.0078125]),
    ("scheduler=poly scheduler.power=2", [0.765625, 0.390625, 0.140625, 0.015625]),
    ("scheduler=steps scheduler.milestones=[1,3] scheduler.gamma=0.5", [1, 0.5, 0.5, 0.25]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "factors"), RATES, ids=[keys for keys, _ in RATES])
def test_a_schedule_gives_these_rates(train: Callable[..., RunFolder], keys: str, factors: list[float]) -> None:
    run = train(*keys.split(), "trainer.max_epochs=4", "optimizer.lr=0.01", "trainer.limit_val_batches=0")
    assert [float(row["lr"]) for row in rows(run)] == pytest.approx([0.01 * factor for factor in factors], rel=1e-4)


# The trainer and the average.


def test_keys_that_change_the_number_of_steps_and_validations(train: Callable[..., RunFolder]) -> None:
    run = train("trainer.max_epochs=3", "trainer.limit_train_batches=1", "trainer.val_every_n_epochs=2")
    assert [row["step"] for row in rows(run)] == ["1", "2", "3"]
    assert [bool(row["val/top1"]) for row in rows(run)] == [False, True, False]


def test_keys_that_change_what_a_step_does(train: Callable[..., RunFolder], before: State) -> None:
    plain = state(train(folder="plain"))
    start = dict(before)
    for number, key in enumerate(("trainer.gradient_clip_norm=1e-12", "trainer.precision=bf16-mixed", "seed=1")):
        assert changed(plain, state(train(key, folder=f"run{number}"))), key
    # With AdamW, gradients of next to nothing move next to nothing but by decay.
    clipped = state(RunFolder(Path("run0")))
    name = "heads.classification.linear.bias"
    assert (clipped[name] - start[name]).abs().max() < 0.01 * (plain[name] - start[name]).abs().max()


def test_a_backbone_without_a_rate_stays(train: Callable[..., RunFolder], before: State) -> None:
    moved = changed(before, state(train("finetune.backbone_lr=0")))
    assert {name for name in moved if not name.endswith(STATISTICS)} == {
        "heads.classification.linear.weight",
        "heads.classification.linear.bias",
    }


def test_the_average_is_what_is_saved_and_follows_its_decay(train: Callable[..., RunFolder]) -> None:
    name = "heads.classification.linear.bias"
    distances = []
    for decay in ("0", "0.05"):
        run = train(f"ema.decay={decay}", folder=f"decay_{decay}")
        found = checkpoint(run)["state_dict"]
        distances.append(float((found[f"average.model.{name}"] - found[f"model.{name}"]).abs().max()))
    assert distances[0] == 0
    assert distances[1] > 0


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
    values = iter([float("nan"), 0.5, float("nan"), 0.4, *[float("nan")] * 9])
    monkeypatch.setattr(Accuracy, "compute", lambda self: Scores({"top1": next(values)}, {}))
    keys = ("trainer.max_epochs=5", "trainer.early_stopping_patience=2", "loader.batch_size=8")
    best = train(*keys, folder="one")
    assert len(rows(best)) == 5
    assert torch.load(best.checkpoints / "best.ckpt", weights_only=True)["epoch"] == 1
    # Without any figure the last epoch is the model.
    none = train(*keys, folder="none")
    assert len(rows(none)) == 5
    assert not (none.checkpoints / "best.ckpt").exists()
    assert VisionModel.load(none.model).spec.origin["epoch"] == 5
    assert none.log.read_text().count("val/top1 cannot be computed on the validation split") == 1


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("trainer.devices=2", "trainer.devices must be a whole number that is 1"),
        (
            "trainer.early_stopping_patience=3 trainer.limit_val_batches=0",
            "trainer.early_stopping_patience=3 needs validations",
        ),
        (
            "trainer.early_stopping_patience=3 trainer.val_every_n_epochs=9",
            "trainer.early_stopping_patience=3 needs validations",
        ),
    ],
)
def test_what_a_trainer_cannot_do_is_a_sentence(
    run: Run, tiny: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], keys: str, sentence: str
) -> None:
    assert run("train", job, *tiny, *keys.split(), "run_dir=OUT") == 2
    assert f"error: {sentence}" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
