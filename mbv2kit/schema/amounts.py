"""Parses amounts of memory such as 512kB."""

import re

from mbv2kit.errors import UserError

UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


def parse_bytes(text: str | int, key: str = "memory_budget") -> int:
    """Reads an amount of memory such as ``1MB``, ``512 kB``, ``256KiB`` or ``400000``.

    Args:
        text: A number and a unit: B, kB, MB, GB (powers of 1000) or KiB, MiB, GiB (powers of 1024); bytes without one.
        key: Name of the option, for the error message.

    Returns:
        The amount in bytes, at least 1.

    Raises:
        UserError: The text is not such an amount.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", str(text).strip())
    unit = UNITS.get(parts[2].lower()) if parts else None
    if parts is None or unit is None or (amount := int(float(parts[1]) * unit)) < 1:
        raise UserError(f"{key} must be an amount of memory such as 1MB, 512kB or 256KiB, got '{text}'.")
    return amount
