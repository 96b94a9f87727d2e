"""`mbv2kit train` as a user runs it."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mbv2kit.backbones import BACKBONES, Backbone
from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.commands.train import job
from mbv2kit.errors import UserError
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.training.parts import training_parts
from mbv2kit.training.run import train

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "conf" / "experiment"
Run = Callable[..., int]


def start(root: Path, here: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Starts tools/train.py in a folder, in a process group of its own as a terminal does."""
    return subprocess.Popen(
        [sys.executable, str(root / "tools" / "train.py"), *arguments],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(file: Path, process: "subprocess.Popen[str]", seconds: float = 120) -> None:
    """Waits until a file is there; fails where the process ends first or the time is over."""
    deadline = time.monotonic() + seconds
    while not file.exists():
        try:
            code = process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            assert time.monotonic() < deadline, f"{file} is not there after {seconds} s"
        else:
            pytest.fail(f"exit code {code} before {file} was there:\n{process.communicate()[0]}")


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(root: Path, tmp_path: Path, tiny: list[str]) -> None:
    process = start(root, tmp_path, *tiny, "loader.workers=1", "trainer.max_epochs=1000", "run_dir=mine")
    try:
        wait_for(tmp_path / "mine" / "metrics.csv", process)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in output
    assert "Warning" not in output
    last_words = " ".join(output.split())
    assert last_words.endswith("SIGINT: stopped and saved; go on with: mbv2kit train resume=mine")
    saved = torch.load(tmp_path / "mine" / "checkpoints" / "last.ckpt", weights_only=True)
    with (tmp_path / "mine" / "metrics.csv").open(newline="") as file:
        assert saved["global_step"] >= int(list(csv.DictReader(file))[-1]["step"])
    assert not (tmp_path / "mine" / "metrics.json").exists()


def test_results_go_below_the_folder_where_the_tool_was_started(run: Run, tiny: list[str], tmp_path: Path) -> None:
    assert run("train", job, *tiny) == 0
    (folder,) = (tmp_path / "outputs" / "classification" / "shapes").iterdir()
    assert (folder / "metrics.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.slow
def test_a_sweep_leaves_a_run_for_each_value(run: Run, tiny: list[str], tmp_path: Path) -> None:
    assert run("train", job, *tiny, "-m", "backbone.width=0.35,0.5", "run_dir=widths") == 0
    widths = [VisionModel.load(tmp_path / "widths" / job / "model").spec.backbone["width"] for job in ("0", "1")]
    assert widths == [0.35, 0.5]


class Patches(Backbone):
    """The least that a backbone can be: means of 32 x 32 pixels, and one convolution."""

    def __init__(self, channels: int = 8, width: float = 1.0, output_stride: int = 32) -> None:
        super().__init__()
        self.feature_info = (FeatureInfo("patches", channels, 32),)
        self.selected = ("patches",)
        self.layers = nn.ModuleDict({"patches": nn.Conv2d(3, channels, 1)})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"patches": self.layers["patches"](nn.functional.avg_pool2d(images, 32))}


@pytest.fixture
def patches(add_part: Callable[..., None]) -> None:
    """Registers the backbone for one test."""
    add_part(BACKBONES, "patches", Patches)


@pytest.mark.usefixtures("patches")
def test_a_backbone_that_is_registered_can_be_trained_at_once(run: Run, tiny: list[str], tmp_path: Path) -> None:
    tiny.remove("backbone.width=0.35")
    assert run("train", job, *tiny, "backbone=patches", "backbone.channels=5", "run_dir=mine") == 0
    model = VisionModel.load(tmp_path / "mine" / "model")
    assert isinstance(model.backbone, Patches)
    assert model.backbone.feature_info[0].channels == 5


@pytest.mark.parametrize(
    "name", [path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in sorted(EXPERIMENTS.rglob("*.yaml"))]
)
def test_an_experiment_can_be_run_and_changed(root: Path, tmp_path: Path, name: str) -> None:
    register_parts(root / "conf", training_parts())
    config: Any = compose_config(root / "conf", "train", [f"experiment={name}", "trainer.max_epochs=3", "seed=7"])
    assert (config.trainer.max_epochs, config.seed) == (3, 7)
    # What an experiment names exists, and its parts fit together; only the data may be missing here.
    if config.dataset.name == "shapes":
        return
    config.dataset.root, config.trainer.accelerator, config.weights = str(tmp_path), "cpu", None
    with pytest.raises(UserError, match=str(tmp_path)):
        train(config)


def test_a_recipe_without_data_names_the_layouts_that_fit_before_weights_are_fetched(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needed = {
        "finetune_classification": ("folder", "classification: folder, imagenet, shards"),
        "finetune_detection": ("coco", "detection: coco, shards, voc"),
        "finetune_segmentation": ("voc", "segmentation: coco, shards, voc"),
    }
    for name, (dataset, layouts) in needed.items():
        message = f"dataset '{dataset}' needs dataset.root=FOLDER. Layouts for {layouts}."
        assert run("train", job, f"experiment=recipes/{name}", "weights=nowhere.pth") == 2
        assert capfd.readouterr().err.startswith(f"error: {message} Expected layout:\n")
    assert list(tmp_path.iterdir()) == []
