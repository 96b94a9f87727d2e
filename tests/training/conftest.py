"""Runs that take seconds, on shapes drawn on the spot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.training.parts import training_parts
from mbv2kit.training.run import train

SIZES = {"classification": 32, "detection": 64, "segmentation": 33}

Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def _clean_process(clean_process: None) -> None:
    """Every test here may train."""


@pytest.fixture(scope="session")
def tiny(root: Path) -> Compose:
    """Composes a run of four steps an epoch, on inputs of a few dozen pixels."""
    register_parts(root / "conf", training_parts())

    def compose(run_dir: Path, *overrides: str, task: str = "classification") -> DictConfig:
        size = SIZES[task]
        small = (
            f"task={task} input.size=[{size},{size}] backbone.width=0.35 "
            "dataset.size=64 dataset.train_count=17 dataset.val_count=6 loader.batch_size=4 loader.workers=0 "
            "trainer.max_epochs=2 trainer.progress_bar=false export=false"
        )
        return compose_config(root / "conf", "train", [*small.split(), f"run_dir='{run_dir}'", *overrides])

    return compose


@pytest.fixture(scope="module")
def changed(tiny: Compose) -> Callable[[str], Any]:
    """Returns a configuration with one key changed; composing takes half a second, so it is done once."""
    base = tiny(Path("unused"))

    def change(override: str) -> Any:
        return OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist([override])), resolve=True)

    return change


@pytest.fixture(scope="session")
def trained(tiny: Compose, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Trains a task once in the session, when it is first asked for, and returns the run; treat it as read-only."""
    runs: dict[str, RunFolder] = {}

    def get(task: str) -> RunFolder:
        if task not in runs:
            folder = tmp_path_factory.mktemp("runs") / task
            train(tiny(folder, "export=true", task=task))
            runs[task] = RunFolder(folder)
        return runs[task]

    return get
