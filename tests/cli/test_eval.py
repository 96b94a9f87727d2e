"""`mbv2kit train` and then `mbv2kit eval`, as a user runs them one after the other."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mbv2kit.commands import eval as evaluation
from tests.exporting.models import saved, small_model
from tests.processes import run_forked

Run = Callable[..., int]


def tool(root: Path, here: Path, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_forked(root / "tools" / f"{name}.py", *arguments, cwd=here, environment={"COLUMNS": "200"})


@pytest.mark.slow
def test_eval_finds_the_run_that_train_left(root: Path, tmp_path: Path, tiny: list[str]) -> None:
    trained = tool(root, tmp_path, "train", *tiny)
    assert trained.returncode == 0, trained.stderr
    assert "Warning" not in trained.stderr
    assert "Traceback" not in trained.stderr
    (run,) = (tmp_path / "outputs" / "classification" / "shapes").iterdir()

    evaluated = tool(root, tmp_path, "eval", "loader.workers=0")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "Warning" not in evaluated.stderr
    assert f"outputs/classification/shapes/{run.name}" in evaluated.stderr
    assert "top1" in evaluated.stdout
    (results,) = (tmp_path / "outputs" / "eval" / "classification" / "shapes").iterdir()
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (results, run))
    assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-6)
    assert ours["images"] == 4


def test_a_device_that_is_not_there_is_a_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = saved(small_model("classification"), tmp_path / "model")
    assert run("eval", evaluation.job, f"checkpoint={folder}", "dataset=shapes", "device=cuda") == 2
    assert "error: device=cuda: torch" in capsys.readouterr().err
    assert run("eval", evaluation.job, f"checkpoint={folder}", "dataset=shapes", "device=gpu") == 2
    assert "error: device must be one of cpu, auto, cuda, mps, got 'gpu'." in capsys.readouterr().err
