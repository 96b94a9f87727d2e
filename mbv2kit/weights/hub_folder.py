"""Reads folders of the Hugging Face Hub: weights, and JSON files that describe them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.schema import documents
from mbv2kit.weights.class_names import check_names

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def read_config(folder: Path) -> dict[str, Any]:
    """Reads ``config.json``; raises :class:`UserError` if it is missing or holds no JSON object."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {CONFIG_FILE}, which describes the weights; fetch it too.")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds a JSON object; raises :class:`UserError` for anything else."""
    return documents.read_json(path, "describe the weights")


def weights_in(folder: Path) -> Path:
    """Returns the file of weights in a folder, safetensors before pickle; raises :class:`UserError` without one."""
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no weights: neither {' nor '.join(WEIGHTS_FILES)}; fetch one of them too.")


def license_in(folder: Path) -> str | None:
    """Returns the license that the folder's model card, ``README.md``, states; None if there is none."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n.*?^---", text, re.DOTALL | re.MULTILINE)
    found = re.search(r"^license:[ \t]*(\S+)", head[0], re.MULTILINE) if head else None
    return found[1].strip("'\"") if found else None


def names_in(values: Mapping[str, Any], key: str, count: int, path: str | Path) -> tuple[str, ...] | None:
    """Returns the names of ``count`` classes from a list, or from an object with class ids as keys.

    Returns None if ``key`` is missing, and raises :class:`UserError` if it holds anything else.
    """
    names = values.get(key)
    if isinstance(names, dict):
        by_id = {str(index): name for index, name in names.items()}
        ids = [str(index) for index in range(len(by_id))]
        names = [by_id[index] for index in ids] if by_id.keys() == set(ids) else by_id
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: '{key}' must name every class id from 0 on.")
    return check_names(names, count, str(path))


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value in a JSON file must be, in words and as a test."""

    expected: str
    fits: Callable[[Any], bool]


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and 0 < value < inf)
SHARE = Kind("a number in 0..1", lambda value: _is_number(value) and 0 <= value <= 1)
# For each of the three channels.
THREE = Kind("three numbers", lambda value: _is_triple(value) and all(-inf < part < inf for part in value))
THREE_POSITIVE = Kind(
    "three numbers above 0", lambda value: _is_triple(value) and all(0 < part < inf for part in value)
)


def value_in(values: Mapping[str, Any], key: str, kind: Kind, default: Any, path: str | Path) -> Any:
    """Returns a value, or ``default`` if ``key`` is missing; raises :class:`UserError` unless it is of that kind."""
    value = values.get(key, default)
    if not kind.fits(value):
        raise UserError(f"{path}: '{key}' must be {kind.expected}, got {value!r}.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_triple(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_is_number, value))
