"""The tables of the pages equal the data files that they are written from."""

import re
from pathlib import Path

import pytest

from docs.scripts import tables

FILES = sorted(path.stem for path in tables.RESULTS.glob("*.yaml") if path.stem != "machines")


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_a_page_equals_its_data_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables.fill(text) == text, "run python -m docs.scripts.tables"


def test_every_data_file_has_its_place() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in tables.pages())
    assert sorted(set(re.findall(r"<!-- table: (\w+) -->", text))) == FILES


@pytest.mark.parametrize("name", FILES)
def test_every_row_has_a_value_for_every_column(name: str) -> None:
    data = tables.load(name)
    assert [list(row) for row in data["rows"]] == [list(data["columns"])] * len(data["rows"])


def test_values_are_formatted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "speed.yaml").write_text(
        "command: make speed\ndate: 2026-01-31\ncolumns: {what: thing, ms: {title: ms, format: .2f}}\n"
        "rows:\n  - {what: a, ms: 1.234}\n  - {what: b, ms: [1, 2]}\n  - {what: c, ms: null}\n"
    )
    assert tables.table("speed").splitlines() == [
        "| thing | ms |",
        "| --- | ---: |",
        "| a | 1.23 |",
        "| b | 1.00, 2.00 |",
        "| c |  |",
        "",
        "<small>2026-01-31; `make speed`; data: docs/results/speed.yaml</small>",
    ]
