"""The examples in the docstrings of the Python interface are true."""

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest

import mbv2kit
from tests.docs.conftest import TINY

MODULES = ("mbv2kit", "mbv2kit.api", "mbv2kit.cli.keywords", "mbv2kit.inference.predictor")


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_docstrings_are_true(
    module: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = mbv2kit.train

    def train_tiny(**keys: Any) -> mbv2kit.Training:
        """Trains on a few small images; what the example sets wins."""
        small = dict(override.split("=", 1) for override in TINY.split())
        size = {"input.size": (64, 64)}
        numbers = {key: _number(value) for key, value in small.items() if key not in size}
        return train(**{key: value for key, value in (size | numbers).items() if not _sets(keys, key)}, **keys)

    monkeypatch.setattr(mbv2kit, "train", train_tiny)
    names = {"mbv2kit": mbv2kit, "Path": Path}
    results = doctest.testmod(importlib.import_module(module), extraglobs=names, verbose=False)
    assert results.attempted > 0
    assert results.failed == 0, capsys.readouterr().out


def _number(text: str) -> float | bool:
    return (
        {"true": True, "false": False}[text] if text in ("true", "false") else float(text) if "." in text else int(text)
    )


def _sets(keys: dict[str, Any], key: str) -> bool:
    group, _, name = key.partition(".")
    return key in keys or name in keys.get(group, {})
