"""The report on the paper: every published number and mbv2kit's, as ``report.md`` and ``report.html``."""

from collections.abc import Sequence
from pathlib import Path

from mbv2kit.errors import UserError, nearest
from mbv2kit.lab.paper.comparison import Comparison, Verdict, compare
from mbv2kit.lab.paper.published import PublishedTable, load
from mbv2kit.lab.paper.report_numbers import ReportData, count_verdicts, shown_like
from mbv2kit.lab.paper.report_runs import find_runs
from mbv2kit.lab.paper.report_sections import SECTIONS, TABLES_OF
from mbv2kit.lab.report_page import Section, Table, write_pages

TITLE = "MobileNetV2 (arXiv 1801.04381): the paper's numbers and mbv2kit's"


def write_report(sections: Sequence[str], output: Path, runs: Path) -> list[Comparison]:
    """Writes ``report.md``, ``report.html`` and ``images/`` into a folder.

    Args:
        sections: Names of the sections to write, from :func:`section_names`.
        output: The folder; created if it does not exist.
        runs: Folder to search for runs whose accuracies to compare with the paper's.

    Returns:
        The comparisons of all numbers in those sections.
    """
    tables = load()
    shown = {name: tables[name] for section in sections for name in TABLES_OF.get(section, (section,))}
    comparisons = compare(shown)
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    data = ReportData(
        tables=tables,
        comparisons={comparison.number.id: comparison for comparison in comparisons},
        runs=find_runs(runs),
        images=images,
    )
    pages = [SECTIONS[section](data) for section in SECTIONS if section in sections]
    write_pages(output, TITLE, [_summary(shown, comparisons, runs), *pages])
    return comparisons


def section_names(tables: str | Sequence[str] | None) -> list[str]:
    """Returns the sections that the key ``tables`` selects, in the paper's order.

    Args:
        tables: ``all`` or None, a name, or several names.

    Raises:
        UserError: There is no section with that name.
    """
    names = [tables] if isinstance(tables, str) else list(tables or ["all"])
    if names == ["all"]:
        return list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"There is no table '{name}' to report on.{nearest(str(name), [*SECTIONS, 'all'])}")
    return [section for section in SECTIONS if section in names]


def summary_line(comparisons: Sequence[Comparison]) -> str:
    """Returns a sentence on how many numbers agree."""
    counts = count_verdicts(comparisons)
    parts = [
        f"{counts[Verdict.AGREES]} numbers agree",
        f"{counts[Verdict.KNOWN]} are known not to reproduce",
        f"{counts[Verdict.NOT_MEASURED]} are not measured",
        f"{counts[Verdict.DISAGREES]} disagree",
    ]
    return ", ".join(parts) + "."


def disagreement(comparison: Comparison) -> str:
    """Returns a line on a number that disagrees."""
    number = comparison.number
    ours = "nothing" if comparison.ours is None else shown_like(comparison.ours, number.value)
    published = f"{number.value} {number.unit}".strip()
    if number.counted is not None:
        return f"{number.id}: published {published}, mbv2kit {ours}, but known as {number.counted}"
    difference = "" if comparison.difference is None else f"{comparison.difference:+.2%}, "
    return f"{number.id}: published {published}, mbv2kit {ours} ({difference}tolerance {number.tolerance or 0:.2%})"


def _summary(tables: dict[str, PublishedTable], comparisons: Sequence[Comparison], runs: Path) -> Section:
    rows = []
    for name, table in tables.items():
        counts = count_verdicts(item for item in comparisons if item.number.table == name)
        rows.append([table.title, *(str(counts[verdict] or "") for verdict in Verdict)])
    columns = ["", *(f">{verdict}" for verdict in Verdict)]
    wrong = [disagreement(item) for item in comparisons if item.verdict is Verdict.DISAGREES]
    return Section(
        "Summary",
        [
            summary_line(comparisons),
            *wrong,
            "A number agrees if mbv2kit's count is within the tolerance or rounds to the printed digits. Numbers that "
            "are known not to reproduce come with a reason. Accuracies are measured only on the paper's data sets, by "
            f"the runs in {runs}; times on a Pixel 1 and settings that the authors chose are not measured.",
            Table(columns=columns, rows=rows),
        ],
    )
