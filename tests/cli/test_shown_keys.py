"""No key of training comes without a test that shows what it does: the mark ``shows`` names the keys of a test."""

from collections import Counter
from pathlib import Path
from typing import Any

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.training.parts import training_parts
from tests.cli import test_multitask, test_reader_keys, test_trainer_keys, test_training_keys
from tests.data import test_augment_keys
from tests.training import test_qat

MODULES = (test_training_keys, test_trainer_keys, test_multitask, test_reader_keys, test_augment_keys, test_qat)
SECTIONS = ("trainer", "finetune", "qat", "ema", "loader")
PARTS = ("scheduler", "optimizer", "augment")


def shown() -> Counter[str]:
    """Returns how many tests show each key."""
    tests = [test for module in MODULES for test in vars(module).values()]
    marks = [mark for test in tests for mark in getattr(test, "pytestmark", ())]
    return Counter(key for mark in marks if mark.name == "shows" for key in mark.args)


def keys(root: Path) -> set[str]:
    """Returns the keys of training whose effect the name alone promises, whatever parts are chosen."""
    register_parts(root / "conf", training_parts())
    config: Any = compose_config(root / "conf", "train")
    found = {f"{section}.{key}" for section in SECTIONS for key in config[section]}
    for registry in training_parts():
        if registry.group in PARTS:
            found |= {f"{registry.group}.{key}" for name in registry.names() for key in registry.keys(name)}
    return found | {"seed", "dataset.cache", "heads", "datasets", "loss_weights", "gradients", "task.references"}


def test_every_key_of_training_has_a_test_that_shows_its_effect(root: Path) -> None:
    assert shown() == Counter(keys(root))
