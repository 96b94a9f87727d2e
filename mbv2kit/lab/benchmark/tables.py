"""A run as Markdown: a table a case, and what it shows of the goals."""

import re
from collections.abc import Sequence

from mbv2kit.errors import UserError, nearest
from mbv2kit.lab.benchmark.goals import Verdict, judge
from mbv2kit.lab.benchmark.jobs.classification import PEAK
from mbv2kit.lab.benchmark.ratios import Spread, spread
from mbv2kit.lab.benchmark.results import CaseResult, Results, Row
from mbv2kit.lab.benchmark.wanted import goals
from mbv2kit.lab.paper.report_page import Table

_MARK = re.compile(r"<!-- benchmark: (.+?) -->.*?<!-- /benchmark -->", re.DOTALL)


def write_tables(results: Results) -> dict[str, str]:
    """Writes all tables as Markdown: ``machine``, ``JOB, CASE`` for each case, and ``goals``."""
    peaks = peak_rates(results)
    tables = {"machine": _machine(results).to_markdown()}
    for case in results.cases:
        tables[f"{case.job}, {case.name}"] = _case(case, peaks).to_markdown()
    tables["goals"] = _goals(judge(goals(), results)).to_markdown()
    return tables


def write_page(results: Results) -> str:
    """Writes a page with all tables."""
    sections = [
        f"## {name[0].upper()}{name[1:].replace('_', ' ')}\n\n{table}" for name, table in write_tables(results).items()
    ]
    return "\n\n".join(["# Benchmark", *sections]) + "\n"


def fill_page(page: str, results: Results) -> str:
    """Puts tables into a page, each between the lines ``<!-- benchmark: NAME -->`` and ``<!-- /benchmark -->``.

    Args:
        page: Markdown; what is not between such lines stays.
        results: For the tables, whose names are those of :func:`write_tables`.

    Raises:
        UserError: The page has no such place, or one for a table that the run does not have.
    """
    tables = write_tables(results)
    names = [found.group(1) for found in _MARK.finditer(page)]
    if not names:
        raise UserError(
            "The page has no place for a table; write <!-- benchmark: goals --> and <!-- /benchmark --> where one "
            f"shall be. Tables of this run: {'; '.join(tables)}."
        )
    if unknown := [name for name in names if name not in tables]:
        raise UserError(
            f"The page has a place for '{unknown[0]}', which this run did not measure.{nearest(unknown[0], tables)}"
        )
    return _MARK.sub(lambda found: f"<!-- benchmark: {found[1]} -->\n\n{tables[found[1]]}\n\n<!-- /benchmark -->", page)


def peak_rates(results: Results) -> dict[str, float]:
    """Returns for each precision the multiply-adds a second of the fastest matrix product."""
    case = results.case("classification", PEAK)
    peaks: dict[str, float] = {}
    for row in case.rows if case is not None else ():
        if row.rounds:
            peaks[row.precision] = max(peaks.get(row.precision, 0.0), rate(row, "whole"))
    return peaks


def rate(row: Row, measure: str) -> float:
    """Returns the multiply-adds a second of a row that knows how many it has."""
    assert row.madds is not None
    return row.madds / spread(row.rounds[measure]).median


def _machine(results: Results) -> Table:
    rows = [[key.replace("_", " "), _plain(value)] for key, value in results.machine.items()]
    return Table(columns=["", ""], rows=rows)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _case(case: CaseResult, peaks: dict[str, float]) -> Table:
    measures = list(dict.fromkeys(measure for row in case.rows for measure in row.rounds))
    unit = "MB" if case.unit == "MB" else "ms"
    has_rates = any(row.madds is not None and row.rounds for row in case.rows)
    columns = ["contender", "", "numbers"]
    for measure in measures:
        columns += [f">{measure}, {unit}", ">x"] if case.unit == "s" else [f">{measure}, {unit}"]
    columns += [">GFLOP/s", ">of the peak"] if has_rates else []
    rows = []
    for row in case.rows:
        cells = [row.name, row.group, row.precision]
        if row.problem is not None:
            cells += [row.problem] + [""] * (len(columns) - len(cells) - 1)
        else:
            for measure in measures:
                cells += _measured(case, row, measure)
            cells += _rates(row, measures, peaks) if has_rates else []
        rows.append(cells)
    counts = sorted({len(values) for row in case.rows for values in row.rounds.values()})
    notes = [f"Medians (quartiles) of {', '.join(map(str, counts))} rounds." if counts else "Nothing was measured."]
    if case.unit == "s":
        name, measure = case.baseline
        notes.append(f"x: times as fast as {name} in the same round; beside its {measure} where it has no such value.")
    return Table(columns=columns, rows=rows, title=case.title, notes=[*notes, *case.notes])


def _measured(case: CaseResult, row: Row, measure: str) -> list[str]:
    values = row.rounds.get(measure)
    if case.unit == "MB":
        return ["" if values is None else _with_quartiles(spread(values))]
    if values is None:
        return ["", ""]
    ups = case.speed_ups(row, measure)
    times = spread([1000 * value for value in values])
    return [_with_quartiles(times), "" if ups is None else _with_quartiles(spread(ups))]


def _rates(row: Row, measures: Sequence[str], peaks: dict[str, float]) -> list[str]:
    measure = next((name for name in ("network", *measures) if name in row.rounds), None)
    if row.madds is None or measure is None:
        return ["", ""]
    reached = rate(row, measure)
    share = f"{reached / peaks[row.precision]:.0%}" if row.precision in peaks else ""
    return [f"{2e-9 * reached:.0f}", share]


def _goals(verdicts: Sequence[Verdict]) -> Table:
    rows = []
    for verdict in verdicts:
        goal = verdict.goal
        wanted = f"at least {goal.at_least:g}" if goal.at_least is not None else f"at most {goal.at_most:g}"
        rows.append(
            [
                goal.job,
                goal.text,
                verdict.ours,
                verdict.other,
                wanted,
                _with_quartiles(verdict.value),
                "yes" if verdict.reached else "no",
            ]
        )
    columns = ["job", "what", "ours", "beside", ">wanted", ">found", "reached"]
    return Table(columns=columns, rows=rows, notes=["Medians (quartiles) of what each round gives."])


def _with_quartiles(found: Spread) -> str:
    if found.low == found.high:
        return short(found.median)
    return f"{short(found.median)} ({short(found.low)}-{short(found.high)})"


def short(value: float) -> str:
    """Writes three digits, and no more of a large number than its whole part."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
