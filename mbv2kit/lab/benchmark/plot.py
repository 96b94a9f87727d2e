"""Draws one image per job: times as bars, memory over time."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Patch

from mbv2kit.evaluation.plot_style import ACCENT, INK, PALETTE, WIDTH, new_figure, plain, save_figure, title_above
from mbv2kit.lab.benchmark.competitor import Group
from mbv2kit.lab.benchmark.ratios import spread
from mbv2kit.lab.benchmark.results import CaseResult, Results
from mbv2kit.lab.benchmark.tables import short

_COLORS: dict[Group, str] = {"mbv2kit": ACCENT, "runtime": to_hex(PALETTE[1]), "library": "#9a9da6"}
# Inches.
_BAR, _FRAME, _MEMORY, _LEGEND = 0.24, 0.9, 3.0, 0.4


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws the median and quartiles of each competitor's first measure, the fastest at the top.

    Args:
        results: Results of a run.
        folder: Folder for the files ``JOB.png``.

    Returns:
        The files, one for each job that measured anything.
    """
    cases = [case for case in results.cases if any(row.rounds for row in case.rows)]
    return [_draw_job(list(group), folder / f"{job}.png") for job, group in groupby(cases, key=lambda case: case.job)]


def _draw_job(cases: Sequence[CaseResult], path: Path) -> Path:
    heights = [
        _MEMORY if case.unit == "MB" else _FRAME + _BAR * sum(bool(row.rounds) for row in case.rows) for case in cases
    ]
    figure = new_figure(1.25 * WIDTH, _LEGEND + sum(heights))
    for case, axes in zip(cases, figure.subplots(len(cases), squeeze=False, height_ratios=heights)[:, 0], strict=True):
        _draw_case(case, axes)
    groups = {row.group for case in cases if case.unit != "MB" for row in case.rows if row.rounds}
    handles = [Patch(color=color, label=group) for group, color in _COLORS.items() if group in groups]
    if handles:
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)
    return save_figure(figure, path)


def _draw_case(case: CaseResult, axes: Axes) -> None:
    title_above(axes, case.title)
    plain(axes)
    if case.unit == "MB":
        _draw_memory(case, axes)
        return
    bars = []
    for row in case.rows:
        if row.rounds:
            measure, values = next(iter(row.rounds.items()))
            bars.append((spread([1000 * value for value in values]), row.group, f"{row.name}: {measure}"))
    bars.sort(key=lambda bar: bar[0].median, reverse=True)
    places = range(len(bars))
    medians = [found.median for found, _, _ in bars]
    errors = [[found.median - found.low for found, _, _ in bars], [found.high - found.median for found, _, _ in bars]]
    axes.barh(places, medians, xerr=errors, color=[_COLORS[group] for _, group, _ in bars], ecolor=INK)
    axes.set_yticks(places, [name for _, _, name in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    axes.margins(x=0.1)
    for place, (found, _, _) in zip(places, bars, strict=True):
        label = short(found.median)
        axes.annotate(label, (found.high, place), va="center", xytext=(5, 0), textcoords="offset points", color=INK)
    axes.set_xlabel("ms")
    axes.grid(axis="y", visible=False)


def _draw_memory(case: CaseResult, axes: Axes) -> None:
    """Draws the memory of each process over time."""
    for row in case.rows:
        for images, series in row.facts.get("series", {}).items():
            axes.plot(*zip(*series, strict=True), label=f"{row.name}, {images} images", linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident MB")
    axes.legend(fontsize=8, frameon=False)
