"""Checks the options of presets, with messages that begin with the option."""

from collections.abc import Iterable
from typing import Any

from mbv2kit.errors import UserError


def number_within(key: str, value: Any, low: float, high: float) -> float:
    """Returns a number as float.

    Raises:
        UserError: It is not a number in ``low..high``.
    """
    if not _is_number_within(value, low, high):
        raise UserError(f"{key} must be a number in {low:g}..{high:g}, got {value!r}.")
    return float(value)


def numbers_within(key: str, value: Any, low: float, high: float) -> list[float]:
    """Returns a list of numbers as floats.

    Raises:
        UserError: It is not a list of at least one number, or a number is not in ``low..high``.
    """
    numbers = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
    if not numbers or not all(_is_number_within(number, low, high) for number in numbers):
        raise UserError(f"{key} must be a list of numbers in {low:g}..{high:g}, got {value!r}.")
    return [float(number) for number in numbers]


def range_within(key: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """Returns the two ends of a range.

    Raises:
        UserError: It is not two numbers in ``low..high``, the smaller first.
    """
    ends = numbers_within(key, value, low, high)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise UserError(f"{key} must be two numbers, the smaller first, got {value!r}.")
    return ends[0], ends[1]


def size_of(value: Any) -> tuple[int, int]:
    """Returns the option ``size`` as (height, width); raises :class:`UserError` unless it holds two whole numbers."""
    sides = numbers_within("size", value, 1, 100_000)
    if len(sides) != 2 or any(side != int(side) for side in sides):
        raise UserError(f"size must be two whole numbers (height, width), got {value!r}.")
    return int(sides[0]), int(sides[1])


def _is_number_within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
