"""Reads JSON and YAML files that others may have written: bounded in size and depth, and each fault is one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mbv2kit.errors import UserError, one_line

# A list of 100,000 classes has 2 MB.
_LARGEST = 32_000_000
_LARGEST_YAML, _DEEPEST = 1_000_000, 30


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        expected: What the message says that the file does not, such as ``describe a model``.

    Raises:
        UserError: The file cannot be read, or holds no JSON object.
    """
    return _read(path, expected, json.loads, _LARGEST, "JSON object")


def read_yaml(path: Path, expected: str) -> dict[str, Any]:
    """Reads the keys of a YAML file as plain values: text that refers to other values or to the environment stays text.

    Args:
        path: The file.
        expected: As of :func:`read_json`.

    Raises:
        UserError: The file cannot be read, or holds no keys; or it has aliases, which can make a small file huge.
    """
    return _read(path, expected, _parse_yaml, _LARGEST_YAML, "keys")


def _read(path: Path, expected: str, parse: Callable[[str], Any], largest: int, kind: str) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise ValueError("it is no file" if path.exists() else "there is no such file")
        if path.stat().st_size > largest:
            raise ValueError(f"it has more than {largest:,} bytes")
        text = path.read_text(encoding="utf-8")
        if not text.strip("\0 \n\t\r"):
            raise ValueError("it is empty")
        values = parse(text)
        if not isinstance(values, dict):
            raise ValueError(f"it holds no {kind}")
        return values
    except RecursionError:
        reason = "it is nested too deeply"
    except UnicodeDecodeError:
        reason = "it is not encoded in UTF-8"
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = one_line(error)
    raise UserError(f"{path} does not {expected}: {reason}.")


def _parse_yaml(text: str) -> Any:
    # The parser knows no recursion, unlike what builds the values.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has aliases (*name), which no file of mbv2kit has")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise RecursionError
    return yaml.safe_load(text)
