"""A run that was stopped anywhere and goes on ends bit for bit where it would have ended."""

import csv
import math
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.command import run_command
from mbv2kit.commands.train import job
from mbv2kit.errors import UserError
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.training.callbacks import MovableCheckpoint
from mbv2kit.training.parts import training_parts
from mbv2kit.training.resume import resumed_config
from mbv2kit.training.run import train
from mbv2kit.training.task import VisionTask

Compose = Callable[..., DictConfig]

EPOCHS = 3
LENGTH = f"trainer.max_epochs={EPOCHS}"


# Columns of metrics.csv that no two runs share.
TIMES = ("seconds", "images_per_second", "waiting")


def rows(run: RunFolder) -> list[dict[str, str]]:
    """Returns the figures of every epoch but the one that no two runs share."""
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def checkpoint(run: RunFolder, name: str = "last") -> dict[str, Any]:
    return torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


def assert_same(left: Any, right: Any, where: str = "") -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert left == right, where


def assert_same_run(left: RunFolder, right: RunFolder) -> None:
    assert rows(left) == rows(right)
    for name in ("last", "best"):
        ours, theirs = checkpoint(left, name), checkpoint(right, name)
        for part in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers"):
            assert_same(ours[part], theirs[part], f"{name}/{part}")
    assert (left.model / "model.safetensors").read_bytes() == (right.model / "model.safetensors").read_bytes()


def signal_in(monkeypatch: pytest.MonkeyPatch, hook: str, when: Callable[[VisionTask, int], bool]) -> None:
    """Sends this process SIGTERM, once, as a hook of the task is called."""
    original = getattr(VisionTask, hook)
    sent: list[bool] = []

    def hooked(self: VisionTask, batch: Any, batch_idx: int) -> Any:
        if not sent and when(self, batch_idx):
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(VisionTask, hook, hooked)


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the evaluation after training, which test_run.py is about."""
    monkeypatch.setattr("mbv2kit.training.finish.evaluate_model", lambda *args, **options: None)
    monkeypatch.setattr("mbv2kit.evaluation.plots.learning_curves", lambda *args: None)


def stop_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    signal_in(monkeypatch, "training_step", lambda task, _: task.global_step == step)


def go_on(tiny: Compose, run: Path) -> None:
    train(tiny(Path("unused"), f"resume='{run}'"))


@pytest.fixture(scope="module")
def uninterrupted(tiny: Compose, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Trains with some overrides to the end, once for all tests that compare with it."""
    runs: dict[str, RunFolder] = {}

    def get(overrides: str) -> RunFolder:
        if overrides not in runs:
            run = RunFolder(tmp_path_factory.mktemp("whole") / "run")
            train(tiny(run.path, LENGTH, *overrides.split()))
            runs[overrides] = run
        return runs[overrides]

    return get


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "stops_at", "overrides"),
    [
        pytest.param(5, 6, "", id="middle of an epoch"),
        pytest.param(0, 1, "", id="first step"),
        pytest.param(7, 8, "", id="last step of an epoch, before its validation"),
        pytest.param(11, 12, "", id="last step of all"),
        pytest.param(3, 5, "trainer.val_every_n_epochs=2", id="last step of an epoch without validation"),
        pytest.param(6, 7, "optimizer=rmsprop optimizer.lr=0.001 ema.decay=null", id="rmsprop without average"),
    ],
)
def test_a_run_stopped_at_any_step_ends_as_if_it_was_not(
    no_evaluation: None,
    tiny: Compose,
    uninterrupted: Callable[[str], RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    stops_at: int,
    overrides: str,
) -> None:
    whole = uninterrupted(overrides)
    run = RunFolder(tmp_path / "run")
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_at_step(patch, step)
        train(tiny(run.path, LENGTH, *overrides.split()))
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoint(run)["global_step"] == stops_at
    assert not run.finished
    assert (
        run.log.read_text()
        .splitlines()[-1]
        .endswith(f"SIGTERM: stopped and saved; go on with: mbv2kit train resume={run.path}")
    )
    go_on(tiny, run.path)
    assert_same_run(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 1])
def test_a_run_stopped_in_validation_starts_that_validation_again(
    no_evaluation: None,
    tiny: Compose,
    uninterrupted: Callable[[str], RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    whole = uninterrupted("")
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        signal_in(patch, "validation_step", lambda task, index: (task.current_epoch, index) == (1, batch))
        train(tiny(run.path, LENGTH))
    assert len(rows(run)) == 1
    go_on(tiny, run.path)
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_run_stopped_twice_and_moved_ends_the_same(
    no_evaluation: None,
    tiny: Compose,
    uninterrupted: Callable[[str], RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = uninterrupted("")
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    with monkeypatch.context() as patch:
        stop_at_step(patch, 5)
        train(tiny(first.path, LENGTH))
    shutil.move(first.path, second.path)
    with monkeypatch.context() as patch:
        stop_at_step(patch, 6)
        go_on(tiny, second.path)
    go_on(tiny, second.path)
    assert_same_run(second, whole)
    assert not first.path.exists()


# What may change on the way.


def command(*overrides: str) -> int:
    """Runs `mbv2kit train` in this process and returns the exit code."""
    with pytest.raises(SystemExit) as exit_:
        run_command("train", "", job, overrides, parts=training_parts)
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_finished_run_says_so_and_a_larger_number_of_epochs_continues_it(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    run = RunFolder(tmp_path / "run")
    train(tiny(run.path, "trainer.max_epochs=1", "scheduler.warmup_epochs=0"))
    before = stamps(run.path)
    # What a process leaves that is killed when everything else is written.
    (run.path / ".owner").touch()
    capfd.readouterr()
    for more in ([], ["trainer.max_epochs=1"]):
        assert command(f"resume='{run.path}'", *more) == 0
        said = " ".join(capfd.readouterr().err.split())
        assert "is finished; set a larger trainer.max_epochs to go on" in said
    assert stamps(run.path) == before

    rates: list[float] = []
    original = VisionTask.training_step

    def training_step(self: VisionTask, batch: Any, batch_idx: int) -> torch.Tensor:
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return original(self, batch, batch_idx)

    monkeypatch.setattr(VisionTask, "training_step", training_step)
    assert command(f"resume='{run.path}'", "trainer.max_epochs=2", "optimizer.lr=0.25") == 0
    # The short run's cosine had come down to 0; the second half of the longer one, from the new peak, is what counts.
    assert rates == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(4, 8)])
    assert [row["epoch"] for row in rows(run)] == ["0", "1"]
    assert run.finished
    assert OmegaConf.load(run.config).trainer.max_epochs == 2
    assert OmegaConf.load(run.config).optimizer.lr == 0.25


@pytest.fixture
def old_run(tiny: Compose, tmp_path: Path) -> RunFolder:
    """A folder that holds no more than a run's configuration."""
    run = RunFolder(tmp_path / "old")
    run.path.mkdir()
    OmegaConf.save(tiny(run.path), run.config, resolve=True)
    return run


def test_keys_of_the_command_line_change_the_configuration(old_run: RunFolder) -> None:
    changes = {"trainer.max_epochs": 9, "optimizer.lr": 0.5, "dataset.root": "/moved", "seed": 3}
    changed = resumed_config(old_run, [f"resume={old_run.path}", *(f"{key}={value}" for key, value in changes.items())])
    kept = OmegaConf.load(old_run.config)
    for key, value in changes.items():
        assert OmegaConf.select(changed, key) == value
        OmegaConf.update(changed, key, OmegaConf.select(kept, key))
    assert changed == kept


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task=detection", "so 'task=detection' cannot be chosen anew; single keys can be changed"),
        ("optimizer=sgd", "so 'optimizer=sgd' cannot be chosen anew"),
        ("backbone.width=0.5", "'backbone.width=0.5' makes another model of the run"),
        ("input.size=[64,64]", "makes another model of the run; leave it out, or start a new run"),
        ("optimizer.name=sgd", "makes another model of the run"),
        ("trainer.max_epoch=9", r"has no key 'trainer\.max_epoch'"),
    ],
)
def test_what_makes_another_run_of_it_is_refused(old_run: RunFolder, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resumed_config(old_run, [override])


def test_a_configuration_from_elsewhere_reads_no_variable_of_the_environment(
    old_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of mine")
    before = old_run.config.read_text().replace("seed: 0", "seed: 0\nnote: ${oc.env:SECRET}")
    old_run.config.write_text(before)
    with pytest.raises(UserError, match=r"config\.yaml refers to another value, '\$\{oc\.env:SECRET\}'") as error:
        resumed_config(old_run, [])
    assert "of mine" not in str(error.value)
    assert old_run.config.read_text() == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer", None, "trainer must be set by its keys"),
        ("optimizer.lr", "fast", r"optimizer\.lr must be a number from 0 to 1,000, got 'fast'"),
        ("backbone.depth", 1e30, r"backbone\.depth must be a number above 0 and at most 10"),
        ("input.size", [100_000, 100_000], r"input\.size must be a list of 2"),
        ("plugins", "os", "plugins must be a list"),
        ("seed", ..., "'seed' is missing"),
        ("loader", ..., "'loader' is missing"),
    ],
)
def test_a_damaged_configuration_is_a_sentence_that_names_the_file(
    old_run: RunFolder, key: str, value: Any, message: str
) -> None:
    config: Any = OmegaConf.load(old_run.config)
    if value is ...:
        del config[key]
    else:
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, old_run.config)
    with pytest.raises(UserError, match=rf"old/config\.yaml: .*{message}"):
        resumed_config(old_run, [])


def test_a_folder_without_a_run_is_refused(tiny: Compose, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"resume=.*nothing: this is no run folder, since it has no config\.yaml"):
        go_on(tiny, tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_in_the_same_folder_is_refused(tiny: Compose, old_run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"run_dir=.*old holds a run; name another folder, or go on with resume="):
        train(tiny(old_run.path))
    assert [path.name for path in old_run.path.iterdir()] == ["config.yaml"]


def test_the_best_figure_is_known_where_the_folder_was_moved(tmp_path: Path) -> None:
    def best(folder: str) -> MovableCheckpoint:
        return MovableCheckpoint(tmp_path / folder, "best", monitor="val/AP", mode="max")

    before, after = best("before"), best("after")
    path = str(tmp_path / "before" / "best.ckpt")
    before.best_model_path = before.kth_best_model_path = path
    before.best_k_models = {path: torch.tensor(0.5)}
    before.best_model_score = before.kth_value = torch.tensor(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after.load_state_dict(before.state_dict())
    assert after.best_model_score == 0.5
    assert after.best_k_models == {str(tmp_path / "after" / "best.ckpt"): 0.5}
    assert after.best_model_path == after.kth_best_model_path == str(tmp_path / "after" / "best.ckpt")
