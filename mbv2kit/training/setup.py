"""What training and evaluation share: the log, and parts built from a config."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from mbv2kit.data.sources import Source, create_source
from mbv2kit.errors import UserError
from mbv2kit.images import InputRule
from mbv2kit.model import ModelSpec
from mbv2kit.structures import Task

_SPLIT_KEYS = ("train_split", "val_split")


def set_up_logging(log_file: Path | None) -> None:
    """Sends what the run says to the screen and, with ``log_file``, there as well; quiets the libraries' chatter."""
    screen = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%X")
    handlers: list[logging.Handler] = [screen]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        written = logging.FileHandler(log_file)
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(written)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers, force=True)
    for library in ("lightning", "lightning.pytorch", "lightning.fabric", "matplotlib", "faster_coco_eval", "fsspec"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for advice in (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*not resumable.*"):
        warnings.filterwarnings("ignore", advice)


def open_source(dataset: Mapping[str, Any], task: Task, split: str) -> Source:
    """Opens a split of the data set that a config's ``dataset`` describes.

    Raises:
        UserError: The data set does not serve the task, or its root or split is not there.
    """
    options = {key: value for key, value in dataset.items() if key not in _SPLIT_KEYS}
    return create_source(options.pop("name"), task=task, split=split, **options)


def model_spec(config: Mapping[str, Any], class_names: tuple[str, ...], origin: Mapping[str, Any]) -> ModelSpec:
    """Returns the spec of the model that a training config describes.

    Raises:
        UserError: The input rule is out of range.
    """
    task: Task = config["task"]["name"]
    mean, std = config["normalisation"]["mean"], config["normalisation"]["std"]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"normalisation needs three means and three stds above 0, got {mean} and {std}.")
    return ModelSpec(
        backbone=config["backbone"],
        heads={task: config["head"]},
        class_names={task: class_names},
        input=InputRule(**config["input"]),
        mean=tuple(mean),
        std=tuple(std),
        origin=origin,
    )
