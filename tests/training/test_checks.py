from collections.abc import Callable
from typing import Any

import pytest

from mbv2kit.errors import UserError
from mbv2kit.training.checks import check_numbers

Change = Callable[[str], Any]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=0", r"trainer\.max_epochs must be a whole number from 1 up, got 0"),
        ("trainer.max_epochs=-1", "trainer.max_epochs must be"),
        ("trainer.val_every_n_epochs=0", "trainer.val_every_n_epochs must be a whole number from 1 up"),
        ("trainer.limit_train_batches=0.5", "trainer.limit_train_batches must be a whole number from 1 up, got 0.5"),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches must be a whole number from 1 up"),
        ("trainer.limit_val_batches=-1", "trainer.limit_val_batches must be a whole number from 0 up"),
        ("trainer.early_stopping_patience=often", "trainer.early_stopping_patience must be a whole number"),
        ("trainer.gradient_clip_norm=0", "trainer.gradient_clip_norm must be above 0, or null for no limit, got 0"),
        ("ema.decay=1", "ema.decay must be at least 0 and below 1, or null for no average, got 1"),
        ("seed=-1", "seed must be a whole number from 0 up, got -1"),
    ],
)
def test_a_number_out_of_range_is_told(changed: Change, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_numbers(changed(override))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.limit_train_batches=3",
        "trainer.limit_val_batches=0",
        "trainer.early_stopping_patience=1",
        "trainer.gradient_clip_norm=0.5",
        "ema.decay=null",
        "ema.decay=0",
    ],
)
def test_a_number_in_range_is_not(changed: Change, override: str) -> None:
    check_numbers(changed(override))
