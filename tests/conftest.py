"""What all tests share."""

import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig

from mbv2kit.process import configure_threads

configure_threads()

import torch  # noqa: E402 - its threads read the setting as they are made

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Keeps a machine with many cores from losing time on tiny tensors, and processes from each other's cores."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(1 if processes > 1 else min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Gives every test the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


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
