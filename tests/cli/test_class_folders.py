"""Class folders, as a user trains on them with a worker."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbv2kit.commands.eval import job as evaluate
from mbv2kit.commands.train import job as train

Run = Callable[..., int]


def add_class(root: Path, name: str, gray: int) -> None:
    for split in ("train", "val"):
        folder = root / split / name
        folder.mkdir(parents=True)
        for index in range(2):
            Image.fromarray(np.full((32, 32, 3), gray + index, np.uint8)).save(folder / f"{index}.png")


@pytest.fixture
def options(tmp_path: Path, tiny: list[str]) -> list[str]:
    ours = ("dataset=", "dataset.", "loader.workers", "experiment")
    kept = [each for each in tiny if not each.startswith(ours)]
    return [*kept, "dataset=folder", f"dataset.root={tmp_path}", "loader.workers=1"]


@pytest.mark.slow
def test_a_run_below_its_data_is_evaluated_and_resumed(run: Run, options: list[str], tmp_path: Path) -> None:
    for name, gray in (("dark", 20), ("light", 220)):
        add_class(tmp_path, name, gray)
    unknown = tmp_path / "test" / "unknown"
    unknown.mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(unknown / "a.png")
    assert run("train", train, *options, "trainer.max_epochs=1", "run_dir=mine") == 0
    assert list(json.loads(Path("mine/metrics.json").read_text())["per_class"]) == ["dark", "light"]
    assert run("eval", evaluate, "checkpoint=mine", "loader.workers=0", "run_dir=found") == 0
    assert run("train", train, "resume=mine", "trainer.max_epochs=2") == 0


def test_one_class_is_refused_before_training(
    run: Run, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_class(tmp_path, "cat", 20)
    assert run("train", train, *options, "run_dir=mine") == 2
    assert (
        "The data set has 1 class for classification (cat), and telling classes apart needs two"
        in capsys.readouterr().err
    )
    assert not Path("mine").exists()
