"""What training and evaluation share: the log, and parts built from a config."""

import logging
import warnings
from collections.abc import Mapping
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from mbv2kit.errors import UserError
from mbv2kit.inputs import InputRule
from mbv2kit.spec import ModelSpec
from mbv2kit.structures import Task

_HELD_LINES = 1000
# Beginnings of warnings about what is meant to be as it is.
_ADVICE = (
    ".*does not have many workers",
    ".*smaller than the logging interval",
    ".*not resumable",
    "Checkpoint directory .* exists and is not empty",
    r".*module\(s\) in eval mode at the start of training",
    r".*isinstance\(treespec, LeafSpec\)",
)


def set_up_logging() -> None:
    """Sends what the run says to the screen, keeps it for :func:`log_to`, and quiets the libraries' chatter."""
    screen = RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%X")
    handlers = [screen, MemoryHandler(_HELD_LINES)]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers, force=True)
    for library in ("lightning", "lightning.pytorch", "lightning.fabric", "matplotlib", "faster_coco_eval", "fsspec"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for advice in _ADVICE:
        warnings.filterwarnings("ignore", advice)


def log_to(file: Path) -> None:
    """Writes what the run has said so far, and all that follows, to ``file`` as well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = logging.FileHandler(file)
    written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    for held in [handler for handler in root.handlers if isinstance(handler, MemoryHandler)]:
        for record in held.buffer:
            written.handle(record)
        root.removeHandler(held)
    root.addHandler(written)


def check_numbers(config: Mapping[str, Any]) -> None:
    """Checks the numbers of a training config that no part checks for itself.

    Raises:
        UserError: One is out of range.
    """
    trainer = config["trainer"]
    for key in ("max_epochs", "val_every_n_epochs"):
        _check_count(f"trainer.{key}", trainer[key], 1)
    for key in ("limit_train_batches", "limit_val_batches", "early_stopping_patience"):
        if trainer[key] is not None:
            _check_count(f"trainer.{key}", trainer[key], 0 if key == "limit_val_batches" else 1)
    clip, decay = trainer["gradient_clip_norm"], config["ema"]["decay"]
    if clip is not None and not (isinstance(clip, int | float) and clip > 0):
        raise UserError(f"trainer.gradient_clip_norm must be above 0, or null for no limit, got {clip}.")
    if decay is not None and not (isinstance(decay, int | float) and 0 <= decay < 1):
        raise UserError(f"ema.decay must be at least 0 and below 1, or null for no average, got {decay}.")
    _check_count("seed", config["seed"], 0)


def _check_count(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or not least <= value < 2**32:
        raise UserError(f"{key} must be a whole number from {least} up, got {value}.")


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
