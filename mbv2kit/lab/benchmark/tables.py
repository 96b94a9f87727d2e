"""Writes the results of a run as Markdown tables, one per case."""

import re
from collections.abc import Sequence

from mbv2kit.errors import UserError, nearest
from mbv2kit.lab.benchmark.jobs.classification import PEAK
from mbv2kit.lab.benchmark.ratios import Spread, spread
from mbv2kit.lab.benchmark.results import CaseResult, Results, Row
from mbv2kit.lab.report_page import Table

_MARK = re.compile(r"<!-- benchmark: (.+?) -->.*?<!-- /benchmark -->", re.DOTALL)


def write_tables(results: Results) -> dict[str, str]:
    """Returns all tables as Markdown by name: ``machine``, and ``JOB, CASE`` for each case."""
    peaks = peak_rates(results)
    tables = {"machine": _machine(results).to_markdown()}
    for case in results.cases:
        tables[f"{case.job}, {case.name}"] = _case(case, peaks).to_markdown()
    return tables


def write_page(results: Results) -> str:
    """Returns a Markdown page with all tables."""
    sections = [
        f"## {name[0].upper()}{name[1:].replace('_', ' ')}\n\n{table}" for name, table in write_tables(results).items()
    ]
    return "\n\n".join(["# Benchmark", *sections]) + "\n"


def fill_page(page: str, results: Results) -> str:
    """Replaces the tables of a page, which stand between ``<!-- benchmark: NAME -->`` and ``<!-- /benchmark -->``.

    Args:
        page: Markdown; all other text is kept.
        results: Results of a run; the names of its tables are the keys of :func:`write_tables`.

    Raises:
        UserError: The page has no place for a table, or one for a table that the run does not have.
    """
    tables = write_tables(results)
    names = [found.group(1) for found in _MARK.finditer(page)]
    if not names:
        raise UserError(
            "The page has no place for a table; mark one with <!-- benchmark: machine --> and <!-- /benchmark -->. "
            f"Tables of this run: {'; '.join(tables)}."
        )
    if unknown := [name for name in names if name not in tables]:
        raise UserError(
            f"The page has a place for '{unknown[0]}', which this run did not measure.{nearest(unknown[0], tables)}"
        )
    return _MARK.sub(lambda found: f"<!-- benchmark: {found[1]} -->\n\n{tables[found[1]]}\n\n<!-- /benchmark -->", page)


def peak_rates(results: Results) -> dict[str, float]:
    """Returns the multiply-adds per second of the fastest matrix product by precision."""
    case = results.case("classification", PEAK)
    peaks: dict[str, float] = {}
    for row in case.rows if case is not None else ():
        if row.rounds:
            peaks[row.precision] = max(peaks.get(row.precision, 0.0), rate(row, "whole"))
    return peaks


def rate(row: Row, measure: str) -> float:
    """Returns the multiply-adds per second of a row with known multiply-adds."""
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
    columns = ["competitor", "group", "precision"]
    for measure in measures:
        columns += [f">{measure}, {unit}", ">speed-up"] if case.unit == "s" else [f">{measure}, {unit}"]
    columns += [">GFLOP/s", ">share of peak"] if has_rates else []
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
    notes = [f"Medians (quartiles); rounds: {', '.join(map(str, counts))}." if counts else "Nothing was measured."]
    if case.unit == "s":
        name, measure = case.baseline
        notes.append(
            f"Speed-up: time of {name} in the same round over this time; its {measure} time where it lacks the measure."
        )
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


def _with_quartiles(found: Spread) -> str:
    if found.low == found.high:
        return short(found.median)
    return f"{short(found.median)} ({short(found.low)}-{short(found.high)})"


def short(value: float) -> str:
    """Formats a value with three digits; large values without decimals."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
