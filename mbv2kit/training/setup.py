"""The parts of a training config that nothing else checks or builds."""

from collections.abc import Mapping
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Task


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
        raise UserError(f"normalization needs three means and three stds above 0, got {mean} and {std}.")
    return ModelSpec(
        backbone=config["backbone"],
        heads={task: config["head"]},
        class_names={task: class_names},
        input=Preprocess(**config["input"]),
        mean=tuple(mean),
        std=tuple(std),
        origin=origin,
    )
