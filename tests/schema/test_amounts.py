"""Amounts of memory as text."""

import pytest

from mbv2kit.errors import UserError
from mbv2kit.schema.amounts import parse_bytes


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1MB", 10**6),
        ("512 kB", 512_000),
        ("256KiB", 262_144),
        ("0.5mb", 500_000),
        (400, 400),
        ("7", 7),
        ("1GiB", 2**30),
        ("3 MiB", 3 * 2**20),
        ("2GB", 2 * 10**9),
        ("12 b", 12),
    ],
)
def test_amounts_are_parsed(text: str | int, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "0", "1 parsec", "1e3", "0.1"])
def test_invalid_amounts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="memory_budget must be an amount of memory"):
        parse_bytes(text)
