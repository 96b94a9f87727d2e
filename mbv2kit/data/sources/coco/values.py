"""Reads single values of a COCO file, which its many writers spell in different ways."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)

Id = int | str


def read_id(value: Any) -> Id | None:
    """Returns an id in one spelling, so that ``7``, ``7.0`` and ``"7"`` are the same; None if it cannot be one."""
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else value or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) < 2**63 and value == int(value) else None


def order_of_ids(number: Id) -> tuple[bool, Id]:
    """Returns the key that sorts ids: numbers first, by value, then texts."""
    return isinstance(number, str), number


def read_number(value: Any) -> float:
    """Returns a number, also of a text.

    Returns:
        NaN or infinity for such a value, and for one that is beyond the range of floats.

    Raises:
        TypeError: It is neither a number nor a text.
        ValueError: It is another text.
    """
    if isinstance(value, bool):
        raise TypeError("true and false are no numbers")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def read_flag(value: Any) -> bool:
    """Returns whether a flag such as ``iscrowd`` is set; it may be a number, a text, true, false or null.

    Raises:
        ValueError: It is none of these, or another number.
    """
    text = str(value).strip().lower()
    if text in ("1", "1.0", "true"):
        return True
    if text in ("0", "0.0", "false", "", "none"):
        return False
    raise ValueError(f"{text} is no flag")


def is_unicode(text: str) -> bool:
    """Returns whether a text can be written; JSON can spell halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_path(text: str) -> bool:
    """Returns whether a file could have this name; Python spells bytes that are no UTF-8 as halves of characters."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def require(path: Path, kind: str, record: Any, keys: Sequence[str]) -> None:
    """Raises :class:`UserError` unless an entry of a file is an object that has all ``keys``."""
    for key in keys:
        if not isinstance(record, dict) or key not in record:
            raise UserError(f"{path}: this {kind} has no '{key}': {str(record)[:100]}.")
