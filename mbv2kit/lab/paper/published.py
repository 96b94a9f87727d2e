"""The numbers that the paper publishes, each with an id, a source and a tolerance.

They are kept in ``published.yaml``, which describes its format at the top.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from mbv2kit.errors import UserError, nearest

Kind = Literal["params", "params_nobn", "madds", "madds_s2b", "bytes", "count", "ratio", "accuracy", "time", "setting"]
Value = float | tuple[float, ...]

PUBLISHED = Path(__file__).with_name("published.yaml")
# Factors of the units; counts are divided by them, other units have none.
UNITS = {"M": 1e6, "B": 1e9, "Kb": 1e3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One published number, or several that are printed together.

    Attributes:
        id: ``table/row/column``, or ``table/name`` for a number in the text.
        name: Description; for a number in a table, its row and column.
        kind: What is counted, measured or chosen.
        value: Printed value, in ``unit``.
        unit: ``M``, ``B``, ``Kb``, ``ms``, ``px``, ``%`` or nothing.
        source: Table, section or file that contains it.
        tolerance: Largest relative difference of a correct count; None for numbers that cannot be counted or are known
            not to reproduce.
        counted: mbv2kit's count of a number that is known not to reproduce, in ``unit``.
        reason: Why the count or its digits differ.
    """

    id: str
    name: str
    kind: Kind
    value: Value
    unit: str = ""
    source: str
    tolerance: float | None = None
    counted: float | None = None
    reason: str = ""

    @property
    def table(self) -> str:
        """Name of its table."""
        return self.id.split("/")[0]

    @property
    def row(self) -> str:
        """Its row in the table; empty for a number in the text."""
        return self.id.split("/")[1] if self.id.count("/") == 2 else ""

    @property
    def column(self) -> str:
        """Its column in the table, or its name in the text."""
        return self.id.split("/")[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTable:
    """A table or figure of the paper, with the related numbers in the text.

    Attributes:
        name: Name in the ids of its numbers.
        title: Heading.
        note: How to read its numbers; may be empty.
        columns: Names of the columns.
        rows: Printed name of each row.
        numbers: Numbers by id.
    """

    name: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Mapping[str, str]
    numbers: Mapping[str, Number]


def load(path: Path | None = None) -> dict[str, PublishedTable]:
    """Reads the published numbers.

    Args:
        path: A file in the format of ``published.yaml``; None for the package's own.

    Returns:
        Tables by name, in the order of the file.

    Raises:
        UserError: A number in the file is invalid.
    """
    return _read(path or PUBLISHED)


def quirks() -> list[str]:
    """Returns what is ambiguous or contradictory in the paper beyond single numbers, a paragraph each."""
    return list(yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))["quirks"])


@cache
def _read(path: Path) -> dict[str, PublishedTable]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    known, notes = content["known"], content["notes"]
    tables: dict[str, PublishedTable] = {}
    for name, table in content["tables"].items():
        numbers = {}
        for number_id, options in _cells(name, table):
            about = known.get(number_id, {})
            reason = about.get("reason", notes.get(number_id, ""))
            numbers[number_id] = _number(
                path, id=number_id, **{"source": table["source"]} | options, counted=about.get("counted"), reason=reason
            )
        tables[name] = PublishedTable(
            name=name,
            title=table["title"],
            note=notes.get(name, ""),
            columns=tuple(table.get("columns", {})),
            rows={str(row): cells["name"] for row, cells in table.get("rows", {}).items()},
            numbers=numbers,
        )
    ids = {number_id for table in tables.values() for number_id in table.numbers}
    for number_id in known.keys() | notes.keys() - tables.keys():
        if number_id not in ids:
            raise UserError(f"{path}: there is no number '{number_id}' to explain.{nearest(number_id, ids)}")
    return tables


def _cells(name: str, table: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the id and the entries of each number of a table, numbers in the text first."""
    for number, options in table.get("numbers", {}).items():
        yield f"{name}/{number}", options
    for row, cells in table.get("rows", {}).items():
        for column, common in table["columns"].items():
            cell = cells.get(column)
            if cell is None:
                continue
            if not isinstance(cell, dict):
                value, tolerance = cell if isinstance(cell, list) else (cell, None)
                cell = {"value": value, "tolerance": tolerance}
            yield f"{name}/{row}/{column}", {"name": f"{cells['name']}: {column}"} | common | cell


def _number(path: Path, **options: Any) -> Number:
    value = options["value"]
    number = Number(**options | {"value": tuple(value) if isinstance(value, list) else value})
    if number.kind not in get_args(Kind):
        hint = nearest(number.kind, get_args(Kind))
        raise UserError(f"{path}: '{number.id}' has the unknown kind '{number.kind}'.{hint}")
    if number.counted is not None and (number.tolerance is not None or not number.reason):
        raise UserError(f"{path}: '{number.id}' is known not to reproduce, so it needs a reason and no tolerance.")
    return number
