"""What all tests share."""

import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mbv2kit.process import configure_threads

configure_threads()

import torch  # noqa: E402 - its threads read the setting as they are made

from mbv2kit.registry import Registry  # noqa: E402 - likewise
from tests.parts import keep_registry  # noqa: E402 - likewise

if TYPE_CHECKING:
    from mbv2kit.models.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
# Sides of the inputs of tiny runs.
SIZES = {"classification": 32, "detection": 64, "segmentation": 33}

MOST_THREADS = min(2, torch.get_num_threads())

Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """Keeps a machine with many cores from losing time on tiny tensors, and processes from each other's cores.

    Inference in torch sets the number for the whole process, so every test sets it again.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(1 if processes > 1 else MOST_THREADS)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Gives every test the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _only_warnings_are_logged() -> None:
    """Gives every test the level of a fresh process; commands that ran before have set another."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _absl_leaves_stderr_open() -> None:
    """Keeps pytest's own stderr open.

    OpenVINO brings absl, whose log handler holds the stderr that it found at import. When Hydra sets up logging anew it
    closes all handlers, and absl's closes that stream unless it is the stderr of the process.
    """
    absl_logging = sys.modules.get("absl.logging")
    if absl_logging is not None:
        absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


@pytest.fixture
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests that train: puts the log's handlers back, and forgets the command line of a tool that ran before.

    One thread is quickest for networks as small as theirs.
    """
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers, logger.level = handlers, level
    torch.set_num_threads(threads)


@pytest.fixture
def add_part(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers a part for one test: ``add_part(REGISTRY, "name", builder, option=default)``."""

    def add(registry: Registry[Any], name: str, builder: Callable[..., Any], **defaults: Any) -> None:
        keep_registry(monkeypatch, registry)
        registry.register(name, **defaults)(builder)

    return add


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout: tools/ and conf/ lie in it."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, or a skipped test where it is not on this machine."""
    folder = Path(os.environ.get("MBV2KIT_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder}; set MBV2KIT_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def tiny(root: Path) -> Compose:
    """Composes a run of four steps an epoch, on inputs of a few dozen pixels."""
    from mbv2kit.cli.config import compose_config, register_parts
    from mbv2kit.training.parts import training_parts

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


@pytest.fixture(scope="session")
def trained(tiny: Compose, tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], RunFolder]":
    """Trains a task once in the session, when it is first asked for, and returns the run; treat it as read-only."""
    from mbv2kit.models.run_folder import RunFolder
    from mbv2kit.training.run import train

    runs: dict[str, RunFolder] = {}

    def get(task: str) -> RunFolder:
        if task not in runs:
            folder = tmp_path_factory.mktemp("runs") / task
            train(tiny(folder, "export=true", task=task))
            runs[task] = RunFolder(folder)
        return runs[task]

    return get


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The image files that are read for training, one after the other."""
    from mbv2kit.imaging import images, parts

    read: list[Path] = []

    def spy(path: Path) -> Any:
        read.append(path)
        return images.read_undecoded(path)

    monkeypatch.setattr(parts, "read_undecoded", spy)
    return read
