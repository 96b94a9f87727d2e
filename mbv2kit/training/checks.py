"""Checks of the numbers in a training config that no part checks for itself."""

from collections.abc import Mapping
from typing import Any

from mbv2kit.errors import UserError


def check_numbers(config: Mapping[str, Any]) -> None:
    """Checks the seed, the decay of the average and the numbers of the trainer.

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
