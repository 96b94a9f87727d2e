"""A run's folder belongs to one process, holds what was trained, and never stands in the way of the same command."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mbv2kit.commands.eval import job as evaluate
from mbv2kit.commands.train import job
from mbv2kit.evaluation import run as evaluation
from mbv2kit.evaluation import write_metrics
from mbv2kit.models.folder_lock import held
from mbv2kit.models.run_claim import new_run
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.training.task import VisionTask

Run = Callable[..., int]


@pytest.fixture
def train(run: Run, tiny: list[str]) -> Callable[..., int]:
    def call(*keys: str) -> int:
        return run("train", job, *tiny, "ema.decay=null", *keys)

    return call


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Returns the error that was printed since the last time: one line, and no traceback."""

    def call() -> str:
        text = capfd.readouterr().err
        assert "Traceback" not in text
        (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
        return line

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Sends this process a signal in a step of training."""
    original = VisionTask.training_step

    def training_step(self: VisionTask, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(VisionTask, "training_step", training_step)


# Exit codes.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_has_the_exit_code_of_its_signal_and_goes_on(
    train: Callable[..., int], run: Run, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        stop(patch, 0, number)
        assert train("run_dir=OUT") == code
    assert not RunFolder(Path("OUT")).finished
    assert run("train", job, "resume=OUT") == 0
    assert RunFolder(Path("OUT")).finished


def test_a_second_signal_ends_at_once(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    original = VisionTask.training_step

    def training_step(self: VisionTask, batch: Any, batch_idx: int) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(VisionTask, "training_step", training_step)
    assert train("run_dir=OUT") == 130
    assert "Traceback" not in capfd.readouterr().err


# Folders.


def test_two_runs_of_one_second_get_a_folder_each(train: Callable[..., int], tmp_path: Path) -> None:
    parent = tmp_path / "outputs" / "classification" / "shapes"
    parent.mkdir(parents=True)
    assert train() == 0
    (first,) = parent.iterdir()
    with new_run(first, named=False) as second:
        second.config.touch()
    assert second.path == first.with_name(f"{first.name}_2")


def test_a_folder_in_use_is_refused(
    train: Callable[..., int], run: Run, said: Callable[[], str], tmp_path: Path
) -> None:
    assert train("run_dir=OUT") == 0
    said_before = files(tmp_path / "OUT")
    (tmp_path / "NEW").mkdir()
    with held(tmp_path / "OUT"), held(tmp_path / "NEW"):
        assert run("train", job, "resume=OUT", "trainer.max_epochs=2") == 2
        assert said() == "error: resume=OUT is in use by another process, which trains there; wait for it or stop it."
        assert train("run_dir=NEW") == 2
        assert said() == "error: run_dir=NEW is in use by another process, which trains there; wait for it or stop it."
    assert files(tmp_path / "OUT") == said_before
    assert train("run_dir=OUT") == 2
    assert "run_dir=OUT holds a run; name another folder" in said()
    assert train("run_dir=NEW") == 0


def test_a_run_that_failed_before_its_first_checkpoint_leaves_nothing(
    train: Callable[..., int], said: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with monkeypatch.context() as patch:
        patch.setattr(VisionTask, "training_step", lambda *_: torch.tensor(float("nan"), requires_grad=True))
        for folder in ("deep/er/OUT", "mine"):
            assert train(f"run_dir={folder}") in (1, 2)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


@pytest.mark.parametrize("content", ["", "[1]"])
def test_a_run_without_whole_metrics_is_finished_by_a_resume(
    train: Callable[..., int], run: Run, tmp_path: Path, content: str
) -> None:
    assert train("run_dir=OUT", "export=true") == 0
    folder = RunFolder(tmp_path / "OUT")
    whole = json.loads(folder.metrics.read_text())["metrics"]
    folder.metrics.write_text(content)
    (folder.model / "model.onnx").unlink()
    (folder.plots / "learning_curves.png").unlink()
    (folder.checkpoints / ".last.ckpt.77.part").touch()
    assert run("train", job, "resume=OUT") == 0
    assert json.loads(folder.metrics.read_text())["metrics"] == whole
    assert (folder.model / "model.onnx").is_file()
    assert (folder.plots / "learning_curves.png").is_file()
    assert not list(folder.path.rglob("*.part"))


def test_metrics_are_written_last(train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there: list[set[str]] = []

    def write(*arguments: Any, **options: Any) -> None:
        there.append(set(files(tmp_path / "OUT")))
        write_metrics(*arguments, **options)

    monkeypatch.setattr(evaluation, "write_metrics", write)
    assert train("run_dir=OUT", "export=true") == 0
    assert set(files(tmp_path / "OUT")) - {".owner"} == {*there[0], "metrics.json"} - {".owner"}


def test_files_have_the_mode_that_the_user_wants(train: Callable[..., int], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert train("run_dir=OUT") == 0
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "OUT").rglob("*") if path.is_file()}
    assert modes == {0o644}


# Resuming.


def test_a_run_is_resumed_and_evaluated_from_another_folder(
    run: Run, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(4):
                cv2.imwrite(str(tmp_path / "data" / split / name / f"{index}.png"), np.full((40, 40, 3), 90, np.uint8))
    keys = [key for key in tiny if not key.startswith("dataset.")]
    assert run("train", job, *keys, "dataset=folder", "dataset.root=data", "run_dir=OUT") == 0
    assert OmegaConf.load("OUT/config.yaml").dataset.root == str(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("train", job, "resume=../OUT", "trainer.max_epochs=2") == 0
    capfd.readouterr()
    assert run("eval", evaluate, "checkpoint=../OUT", "loader.workers=0", "run_dir=EV") == 0
    assert f"split val, 8 images ({tmp_path / 'data'})" in capfd.readouterr().err

    # Other classes are refused before anything is written.
    before = files(tmp_path / "OUT")
    for split in ("train", "val"):
        (tmp_path / "data" / split / "cat").rename(tmp_path / "data" / split / "zebra")
    assert run("train", job, "resume=../OUT", "trainer.max_epochs=3") == 2
    assert "the run knows the classes cat, dog (2), the data set has dog, zebra (2)" in capfd.readouterr().err
    assert files(tmp_path / "OUT") == before


def test_a_run_can_not_have_fewer_epochs_than_it_has(
    train: Callable[..., int], run: Run, said: Callable[[], str], tmp_path: Path
) -> None:
    assert train("run_dir=OUT", "trainer.max_epochs=3") == 0
    (tmp_path / "OUT" / "metrics.json").unlink()
    before = files(tmp_path / "OUT")
    assert run("train", job, "resume=OUT", "trainer.max_epochs=2") == 2
    assert "trainer.max_epochs=2, but the run in OUT is in epoch 3 already; set it to 3 or more" in said()
    assert files(tmp_path / "OUT") == before


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "gone", "odd"])
def test_a_damaged_checkpoint_is_named_and_what_is_left_goes_on(
    train: Callable[..., int], run: Run, said: Callable[[], str], tmp_path: Path, damage: str
) -> None:
    assert train("run_dir=OUT", "trainer.max_epochs=2") == 0
    last, best = (tmp_path / "OUT" / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    content = last.read_bytes()
    if damage == "gone":
        last.unlink()
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, last)
    elif damage == "odd":
        torch.save(torch.load(last, weights_only=True) | {"epoch": "two"}, last)
    else:
        last.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    before = files(tmp_path / "OUT")
    assert run("train", job, "resume=OUT", "trainer.max_epochs=3") == 2
    assert f"{best.relative_to(tmp_path)} is whole: copy it to last.ckpt to go on after epoch" in said()
    assert files(tmp_path / "OUT") == before
    last.write_bytes(best.read_bytes())
    assert run("train", job, "resume=OUT", "trainer.max_epochs=3") == 0


@pytest.mark.parametrize(("batch_size", "steps"), [(2, 4), (8, 1)])
def test_the_schedule_goes_by_epochs_whatever_the_size_of_batches(
    train: Callable[..., int], run: Run, tmp_path: Path, batch_size: int, steps: int
) -> None:
    assert (
        train("run_dir=OUT", "trainer.max_epochs=2", "scheduler.warmup_epochs=0", "scheduler.final_fraction=0.5") == 0
    )
    assert run("train", job, "resume=OUT", "trainer.max_epochs=4", f"loader.batch_size={batch_size}") == 0
    assert train("run_dir=WHOLE", "trainer.max_epochs=4", "scheduler.warmup_epochs=0", "scheduler.final_fraction=0.5",
                 f"loader.batch_size={batch_size}") == 0  # fmt: skip
    rates = []
    for name in ("OUT", "WHOLE"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert int(rows[3]["step"]) - int(rows[2]["step"]) == steps
        rates.append([row["lr"] for row in rows[2:]])
    assert rates[0] == rates[1]


def test_within_an_epoch_the_batches_stay_as_they_are(
    train: Callable[..., int], run: Run, said: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop(patch, 2)
        assert train("run_dir=OUT", "trainer.max_epochs=2") == 143
    before = files(tmp_path / "OUT")
    for key in ("loader.batch_size=2", "seed=5", "trainer.limit_train_batches=1", "dataset.train_count=7"):
        assert run("train", job, "resume=OUT", key) == 2
        assert "the run stopped within epoch 2, whose " in said()
        assert files(tmp_path / "OUT") == before
    assert run("train", job, "resume=OUT") == 0


def test_a_run_of_an_earlier_version_gets_the_keys_that_it_lacks(
    train: Callable[..., int], run: Run, tmp_path: Path
) -> None:
    assert train("run_dir=OUT") == 0
    path = tmp_path / "OUT" / "config.yaml"
    config: Any = OmegaConf.load(path)
    lacking = [("", "plugins"), ("", "evaluator"), ("", "qat"), ("trainer", "limit_val_batches")]
    for section, key in [*lacking, ("scheduler", "final_fraction")]:
        del (config[section] if section else config)[key]
    OmegaConf.save(config, path)
    checkpoint = torch.load(tmp_path / "OUT" / "checkpoints" / "last.ckpt", weights_only=True)
    # As it was before optimizers were fused, and positions had the size of a batch.
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        group.pop("fused", None)
    del checkpoint["class_names"]
    checkpoint["DataModule"] = {key: checkpoint["DataModule"][key] for key in ("epoch", "start")}
    torch.save(checkpoint, tmp_path / "OUT" / "checkpoints" / "last.ckpt")
    assert run("train", job, "resume=OUT", "trainer.max_epochs=2") == 0
    now = OmegaConf.load(path)
    assert (now.plugins, now.evaluator, now.qat.enabled, now.scheduler.final_fraction) == ([], None, False, 0.0)


# Full disks and folders that cannot be written.

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from mbv2kit.commands.train import main
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_full_disk_is_a_sentence(tiny: list[str], tmp_path: Path, root: Path, size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *tiny, "run_dir=OUT"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "cannot be written (File too large); make room" in done.stderr
    assert not (tmp_path / "OUT").exists()


def test_a_run_dir_that_is_a_file_is_a_sentence(
    train: Callable[..., int], said: Callable[[], str], tmp_path: Path
) -> None:
    (tmp_path / "OUT").write_text("mine")
    for folder in ("OUT", "OUT/deeper"):
        assert train(f"run_dir={folder}") == 2
        assert "OUT" in said()
    assert (tmp_path / "OUT").read_text() == "mine"
