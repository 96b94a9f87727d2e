"""The times of every case as bars."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from mbv2kit.benchmark.contender import Group
from mbv2kit.benchmark.ratios import spread
from mbv2kit.benchmark.results import CaseResult, Results
from mbv2kit.evaluation.plot_style import ACCENT, INK, PALETTE, WIDTH, new_figure, plain, save_figure, title_above

_COLOURS: dict[Group, str] = {"ours": ACCENT, "by hand": to_hex(PALETTE[1]), "peer": "#9a9da6"}
_BAR, _FRAME = 0.24, 0.9


def draw(results: Results, path: Path) -> Path | None:
    """Draws for each case the median of each contender's first measure, the fastest at the top, with its quartiles.

    Args:
        results: Of a run.
        path: The PNG file to write.

    Returns:
        The file, or None where nothing was measured.
    """
    cases = [case for case in results.cases if any(row.rounds for row in case.rows)]
    if not cases:
        return None
    heights = [_FRAME + _BAR * sum(bool(row.rounds) for row in case.rows) for case in cases]
    figure = new_figure(1.25 * WIDTH, sum(heights))
    for case, axes in zip(cases, figure.subplots(len(cases), squeeze=False, height_ratios=heights)[:, 0], strict=True):
        _draw_case(case, axes)
    return save_figure(figure, path)


def _draw_case(case: CaseResult, axes: Axes) -> None:
    scale, unit = (1.0, "MB") if case.unit == "MB" else (1000.0, "ms")
    bars = []
    for row in case.rows:
        if row.rounds:
            measure, values = next(iter(row.rounds.items()))
            bars.append((spread([scale * value for value in values]), row.group, f"{row.name}: {measure}"))
    bars.sort(key=lambda bar: bar[0].median, reverse=True)
    medians = [found.median for found, _, _ in bars]
    errors = [[found.median - found.low for found, _, _ in bars], [found.high - found.median for found, _, _ in bars]]
    names = [f"{name} ({index})" for index, (_, _, name) in enumerate(bars)]
    axes.barh(names, medians, xerr=errors, color=[_COLOURS[group] for _, group, _ in bars], ecolor=INK)
    axes.set_yticks(range(len(bars)), [name for _, _, name in bars])
    axes.set_ylim(-0.6, len(bars) - 0.4)
    for place, median in enumerate(medians):
        axes.annotate(f" {median:.3g}", (median, place), va="center", xytext=(6, 0), textcoords="offset points")
    axes.set_xlabel(unit)
    title_above(axes, case.title)
    plain(axes)
    axes.grid(axis="y", visible=False)
