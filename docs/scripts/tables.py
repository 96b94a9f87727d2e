"""Writes the tables of the pages from the data files in docs/results/.

python -m docs.scripts.tables

A page has a place for each table: ``<!-- table: NAME -->`` and ``<!-- /table -->`` with the table of
``docs/results/NAME.yaml`` in between. A data file has

- ``command``: what measures the values; ``date``: when it ran; ``machine``: a key of ``machines.yaml``, if times or
  rounding matter;
- ``columns``: for each key of a row the heading, or ``{title, format}`` with a format of Python such as ``.3f``;
- ``rows``: the values. Text may hold Markdown, several values stand in a list, and null is an empty cell.
"""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
_PLACE = re.compile(r"<!-- table: (\w+) -->.*?<!-- /table -->", re.DOTALL)


def pages() -> list[Path]:
    """Returns the Markdown files that may have places for tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(page: str) -> str:
    """Returns the Markdown of a page with every table written anew from its data file."""
    return _PLACE.sub(lambda place: f"<!-- table: {place[1]} -->\n\n{table(place[1])}\n\n<!-- /table -->", page)


def table(name: str) -> str:
    """Returns the table ``name`` as Markdown, with the command, date and machine below it."""
    data = load(name)
    columns = {key: ({"title": value} if isinstance(value, str) else value) for key, value in data["columns"].items()}
    numeric = [_is_number(next((row[key] for row in data["rows"] if row[key] is not None), None)) for key in columns]
    lines = [
        [column["title"] for column in columns.values()],
        ["---:" if each else "---" for each in numeric],
        *([_cell(row[key], column.get("format", "")) for key, column in columns.items()] for row in data["rows"]),
    ]
    source = [f"{data['date']:%Y-%m-%d}", *([load("machines")[data["machine"]]["title"]] if "machine" in data else [])]
    source += [f"`{data['command']}`"] if data.get("command") else []
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{rows}\n\n<small>{'; '.join(source)}; data: docs/results/{name}.yaml</small>"


def load(name: str) -> dict[str, Any]:
    """Reads a data file."""
    data: dict[str, Any] = yaml.safe_load((RESULTS / f"{name}.yaml").read_text(encoding="utf-8"))
    return data


def _is_number(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(each, int | float) for each in values)


def _cell(value: object, spec: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_cell(each, spec) for each in value)
    return value if isinstance(value, str) else format(value, spec)


if __name__ == "__main__":
    for path in pages():
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
