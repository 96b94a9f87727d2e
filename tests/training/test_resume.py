"""A run that was stopped anywhere and goes on ends bit for bit where it would have ended."""

import csv
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from mbv2kit.config import run_tool
from mbv2kit.errors import UserError
from mbv2kit.runs import RunFolder
from mbv2kit.training.resume import resumed_config
from mbv2kit.training.run import train
from mbv2kit.training.task import VisionTask

Compose = Callable[..., DictConfig]

STEPS = 4
EPOCHS = 3
LENGTH = f"trainer.max_epochs={EPOCHS}"


def rows(run: RunFolder) -> list[dict[str, str]]:
    """Returns the figures of every epoch but the one that no two runs share."""
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


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
            runs[overrides] = RunFolder(tmp_path_factory.mktemp("whole") / "run")
            train(tiny(runs[overrides].path, LENGTH, *overrides.split()))
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
    assert run.log.read_text().splitlines()[-1].endswith(
        f"SIGTERM: stopped and saved; go on with: python tools/train.py resume={run.path}"
    )
    go_on(tiny, run.path)
    assert_same_run(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 1])
def test_a_run_stopped_in_validation_starts_that_validation_again(
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
    tiny: Compose, uninterrupted: Callable[[str], RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
