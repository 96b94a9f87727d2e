"""Tables of published numbers and mbv2kit's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mbv2kit.lab.paper.comparison import Comparison, Verdict
from mbv2kit.lab.paper.published import PublishedTable, Value
from mbv2kit.lab.paper.report_runs import METRICS, Run, measured
from mbv2kit.lab.report_page import Table

DIFFERENCE = ">difference, % (tolerance)"
HEADINGS = {
    "params": "parameters",
    "madds": "multiply-adds",
    "top1": "top-1",
    "top5": "top-5",
    "time": "Pixel 1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The data that the sections of a report show.

    Attributes:
        tables: Published tables by name.
        comparisons: Comparisons by the id of the number.
        runs: Evaluations on this machine, the newest first.
        images: Folder for the images.
    """

    tables: Mapping[str, PublishedTable]
    comparisons: Mapping[str, Comparison]
    runs: Sequence[Run]
    images: Path

    def of(self, table: str) -> list[Comparison]:
        """Returns the comparisons of one published table."""
        return [self.comparisons[number] for number in self.tables[table].numbers]


@dataclass(slots=True)
class _Notes:
    """Footnotes of a table."""

    sentences: list[str] = field(default_factory=list)

    def mark(self, sentence: str) -> str:
        """Returns the mark of a sentence, such as `` (1)``; equal sentences share a mark."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return f" ({self.sentences.index(sentence) + 1})"

    def numbered(self) -> list[str]:
        return [f"({number}) {sentence}" for number, sentence in enumerate(self.sentences, start=1)]


def rows_table(data: ReportData, name: str, title: str = "") -> Table:
    """Returns the rows of a published table, with mbv2kit's number and the difference for each column.

    mbv2kit's accuracies come from runs on the paper's data set.
    """
    table, notes = data.tables[name], _Notes()
    columns = ["row"]
    for column in table.columns:
        columns += _headings([item for item in data.of(name) if item.number.column == column])
    columns.append("verdict")
    rows = []
    for row, label in table.rows.items():
        cells, verdicts = [label], []
        for column in table.columns:
            item = data.comparisons.get(f"{name}/{row}/{column}")
            width = len(_headings([other for other in data.of(name) if other.number.column == column]))
            cells += _cells(item, data.runs, notes) if item else [""] * width
            if item and item.verdict is not Verdict.NOT_MEASURED:
                verdicts.append((column, str(item.verdict)))
        rows.append([*cells, _joined(verdicts)])
    return Table(columns=columns, rows=rows, title=title, notes=[*_note(table), *notes.numbered()])


def numbers_table(data: ReportData, name: str, title: str = "") -> Table:
    """Returns the numbers in the text that belong to a published table, a row each."""
    rows, notes = [], _Notes()
    for item in data.of(name):
        number = item.number
        if number.row:
            continue
        mark = notes.mark(number.reason) if number.reason else ""
        rows.append(
            [
                number.name,
                f"{_shown(number.value)} {number.unit}".strip(),
                "" if item.ours is None else shown_like(item.ours, number.value),
                difference_of(item),
                f"{item.verdict}{mark}",
                number.source,
            ]
        )
    columns = ["number", ">published", ">mbv2kit", DIFFERENCE, "verdict", "source"]
    return Table(columns=columns, rows=rows, title=title, notes=notes.numbered())


def shown_like(value: Value, printed: Value) -> str:
    """Formats a value with one more digit than the printed one; integers unchanged."""
    if isinstance(value, tuple):
        others = printed if isinstance(printed, tuple) and len(printed) == len(value) else value
        return ", ".join(shown_like(ours, other).replace(",", "") for ours, other in zip(value, others, strict=True))
    if isinstance(value, int) or value == printed:
        return _shown(value)
    digits = len(repr(printed).partition(".")[2]) if isinstance(printed, float) else 0
    return f"{value:,.{digits + 1}f}"


def difference_of(item: Comparison) -> str:
    """Formats the difference and the tolerance in percent."""
    if item.difference is None:
        return ""
    tolerance = f" (± {100 * item.number.tolerance:g})" if item.number.tolerance else ""
    return "0" if item.difference == 0 else f"{100 * item.difference:+.2f}{tolerance}"


def count_verdicts(comparisons: Iterable[Comparison]) -> dict[Verdict, int]:
    """Returns the number of comparisons with each verdict."""
    verdicts = [item.verdict for item in comparisons]
    return {verdict: verdicts.count(verdict) for verdict in Verdict}


def _headings(column: Sequence[Comparison]) -> list[str]:
    """Returns the headings for a column of the paper: printed number, mbv2kit's number and difference, if any."""
    number = column[0].number
    heading = HEADINGS.get(number.column, number.column.replace("_", " "))
    unit = f", {number.unit}" if number.unit else ""
    if number.kind == "time":
        return [f">{heading}{unit}"]
    if number.kind == "accuracy":
        return [f">{heading}{unit}", ">mbv2kit"]
    return [f">{heading}{unit}", ">mbv2kit", DIFFERENCE]


def _cells(item: Comparison, runs: Sequence[Run], notes: _Notes) -> list[str]:
    number = item.number
    published = _shown(number.value)
    if number.kind == "time":
        return [published]
    if number.kind == "accuracy":
        run = measured(number, runs)
        if run is None:
            return [published, ""]
        share = run.metrics[METRICS[number.column]] or 0.0
        sentence = f"Measured on {run.images:,} images of {run.data}, split {run.split}: {run.folder}"
        # The run may have used only a part of the split, so the number of images is shown.
        return [published, f"{100 * share:.1f} on {run.images:,} images{notes.mark(sentence)}"]
    mark = notes.mark(number.reason) if number.reason else ""
    ours = "" if item.ours is None else shown_like(item.ours, number.value) + mark
    return [published, ours, difference_of(item)]


def _joined(verdicts: Sequence[tuple[str, str]]) -> str:
    """Returns one verdict if all columns have the same, else that of each column."""
    texts = {text for _, text in verdicts}
    if len(texts) == 1:
        return texts.pop()
    return "; ".join(f"{HEADINGS.get(column, column.replace('_', ' '))}: {text}" for column, text in verdicts)


def _note(table: PublishedTable) -> list[str]:
    return [table.note] if table.note else []


def _shown(value: Value) -> str:
    # In a list, a thousands separator would look like a comma between numbers.
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}"
