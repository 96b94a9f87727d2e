"""Commands run in this process, which they leave as they found it."""

import logging
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor

from mbv2kit.backbones import BACKBONES
from mbv2kit.cli.command import run_command
from mbv2kit.commands.train import job
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.parts import training_parts
from tests.little import Little

TINY = (
    "input.size=[32,32] backbone.width=0.35 dataset.size=64 dataset.train_count=8 dataset.val_count=4 "
    "loader.batch_size=4 loader.workers=0 trainer.max_epochs=1 trainer.progress_bar=false export=false"
)


@pytest.fixture(autouse=True)
def _clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts back the log's handlers, Hydra's memory of the command line and the number of threads."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    logger = logging.getLogger()
    handlers, level, threads = logger.handlers[:], logger.level, torch.get_num_threads()
    yield
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers, logger.level = handlers, level
    torch.set_num_threads(threads)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command from an empty folder within this process, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def call(name: str, job: Callable[[DictConfig], object], *arguments: str) -> int:
        def code(config: DictConfig) -> int | None:
            # A tool's exit code is not what the function behind it returns, such as a run folder.
            result = job(config)
            return result if isinstance(result, int) else None

        monkeypatch.setattr(sys, "argv", [f"{name}.py"])
        with pytest.raises(SystemExit) as exit_:
            run_command(
                name, import_module(f"mbv2kit.commands.{name}").__doc__, code, list(arguments), parts=training_parts
            )
        assert isinstance(exit_.value.code, int)
        return exit_.value.code

    return call


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders with eight images for each split."""
    for split in ("train", "val"):
        for name in ("red", "blue"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                image = np.full((40, 40, 3), (255, 0, 0) if name == "blue" else (0, 0, 255), np.uint8)
                cv2.imwrite(str(folder / f"{index}.png"), image)
    return tmp_path / "data"


def of_folders(tiny: list[str], folders: Path) -> list[str]:
    """Returns the keys of a small training on class folders in place of drawn shapes."""
    shapes = ("dataset.size", "dataset.train_count", "dataset.val_count")
    return [*(key for key in tiny if not key.startswith(shapes)), "dataset=folder", f"dataset.root={folders}"]


@pytest.fixture
def quick(
    run: Callable[..., int],
    tiny: list[str],
    add_part: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., RunFolder]:
    """Trains the least of networks for two epochs of two steps, and leaves out what follows the last epoch."""
    add_part(BACKBONES, "little", Little)
    monkeypatch.setattr("mbv2kit.training.run.finish", lambda *_: None)
    keys = [key for key in tiny if not key.startswith("backbone.")]
    keys += ["backbone=little", "trainer.max_epochs=2", "ema.decay=null"]

    def call(*more: str, folder: str = "run") -> RunFolder:
        assert run("train", job, *keys, f"run_dir={folder}", *more) == 0
        return RunFolder(tmp_path / folder)

    return call


@pytest.fixture
def train_heads(run: Callable[..., int], tiny: list[str], tmp_path: Path) -> Callable[..., RunFolder]:
    """Trains several heads for two epochs, unless a key says otherwise."""

    def call(*keys: str, folder: str = "run") -> RunFolder:
        several = ("task=multitask", "input.size=[65,65]", "trainer.max_epochs=2", "ema.decay=null")
        assert run("train", job, *tiny, *several, f"run_dir={folder}", *keys) == 0
        return RunFolder(tmp_path / folder)

    return call


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each pass through a network that is trained."""
    seen: list[int] = []
    original = VisionModel.forward

    def forward(self: VisionModel, images: Tensor, *rows: Any) -> Any:
        seen.extend([len(images)] * self.training)
        return original(self, images, *rows)

    monkeypatch.setattr(VisionModel, "forward", forward)
    return seen


@pytest.fixture
def tiny() -> list[str]:
    """Overrides that make a training one of a few seconds."""
    return TINY.split()
