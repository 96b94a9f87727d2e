"""`mbv2kit train` and then `mbv2kit eval`, as a user runs them one after the other."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.processes import run_forked


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
