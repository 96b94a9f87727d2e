"""Draws Figures 1, 5, 6 and 7 of the paper, and time against the split t, as PNG files in the common plot style."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from mbv2kit.analysis.activations import ActivationPattern
from mbv2kit.errors import UserError
from mbv2kit.evaluation.plot_style import (
    ACCENT,
    FAINT,
    INK,
    PAD,
    PALETTE,
    WIDTH,
    new_figure,
    plain,
    save_figure,
    title_above,
)
from mbv2kit.lab.paper.manifold import DIMENSIONS, Embedding, Floats, embed, spiral

# The one of the first hundred seeds whose shares of lost and recoverable points are nearest to the expected shares.
TYPICAL_SEED = 81
# Colors along the spiral; the last one must still be visible on white.
SPIRAL_COLORS = mpl.colormaps["plasma"]
SPIRAL_SHADES = (0.0, 0.9)
# The curves of a network go from light to dark with its width.
NETWORK_COLORS = ("Blues", "Oranges", "Greens", "Purples")
NETWORK_SHADES = (0.35, 0.95)
NETWORK_LINES = ("solid", "dashed", "dotted", "dashdot")
WIDTH_MARKERS = "os^Dvp"
POINT_MARKERS = "XPdhH8"
MADDS_LIMITS = (7.5, 600)
MADDS_TICKS = (7.5, 15, 30, 75, 150, 300, 600)
TOP1_LIMITS = (35, 77.5)
# The paper's recommendation in Section 5.1.
USEFUL_SPLITS = (2, 5)

Curve = Sequence[tuple[float, float]]


def figure_1(path: Path, seed: int = TYPICAL_SEED) -> Path:
    """Draws the spiral, and its restorations after ReLU in 2, 3, 5, 15 and 30 dimensions.

    Each panel has its own scale and shows the shares of lost and recoverable points; see
    :mod:`mbv2kit.lab.paper.manifold`.

    Args:
        path: PNG file to write.
        seed: Seed of the random matrices.

    Returns:
        The file.
    """
    points = spiral()
    figure = new_figure(WIDTH, 6.3)
    # The compressed layout leaves no gaps around square panels.
    figure.set_layout_engine("compressed", w_pad=PAD, h_pad=PAD)
    panels = figure.subplots(2, 3).flat
    _draw_spiral(next(panels), points)
    figure.axes[0].set_title("input", color=INK, fontsize=12, fontweight="bold", pad=20)
    for axes, dimensions in zip(panels, DIMENSIONS, strict=True):
        embedding = embed(points, dimensions, seed)
        _draw_spiral(axes, embedding.restored)
        if embedding.lost.any():
            axes.plot(0, 0, "o", color=INK, markersize=6, zorder=3)
        axes.set_title(f"n = {dimensions}", color=INK, fontsize=12, fontweight="bold", pad=20)
        axes.annotate(
            _survival(embedding),
            (0.5, 1),
            xycoords="axes fraction",
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=9.5,
        )
    return save_figure(figure, path)


def _draw_spiral(axes: Axes, points: Floats) -> None:
    segments = np.stack([points[:-1], points[1:]], axis=1)
    shades = np.linspace(*SPIRAL_SHADES, len(segments))
    axes.add_collection(LineCollection(list(segments), colors=SPIRAL_COLORS(shades), linewidths=2.2, capstyle="round"))
    low, high = points.min(axis=0), points.max(axis=0)
    middle, reach = (low + high) / 2, 0.58 * (high - low).max()
    axes.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(FAINT)


def _survival(embedding: Embedding) -> str:
    place = " (dot)" if embedding.lost.any() else ""
    return f"{embedding.lost.mean():.0%} lost{place}, {embedding.recoverable.mean():.0%} recoverable"


def figure_5(series: Mapping[str, Mapping[str, Curve]], points: Mapping[str, tuple[float, float]], path: Path) -> Path:
    """Draws ImageNet accuracy against multiply-adds (Figure 5), on the axes of the paper.

    Args:
        series: For each network and each width, from narrow to wide: pairs (million multiply-adds, top-1 accuracy in
            percent) by rising image size.
        points: The same pair for each network that is a single point.
        path: PNG file to write.

    Returns:
        The file.
    """
    figure = new_figure(WIDTH, 5.6)
    axes = figure.add_subplot()
    handles: list[Line2D] = []
    for network, colors, line in zip(series, cycle(NETWORK_COLORS), cycle(NETWORK_LINES), strict=False):
        handles.append(Line2D([], [], linestyle="none", label=network))
        shades = np.linspace(*NETWORK_SHADES, len(series[network]))
        for (width, curve), shade, marker in zip(series[network].items(), shades, cycle(WIDTH_MARKERS), strict=False):
            madds, top1 = zip(*curve, strict=True)
            color = mpl.colormaps[colors](shade)
            handles += axes.plot(
                madds, top1, color=color, linestyle=line, linewidth=1.6, marker=marker, markersize=5, label=width
            )
    for marker, (network, (million, accuracy)) in zip(cycle(POINT_MARKERS), points.items(), strict=False):
        # Drawn below the curves, because one point coincides with another network's.
        handles += axes.plot(
            million, accuracy, marker, color=INK, markersize=9, markeredgewidth=0, label=network, zorder=1.5
        )
    legend = axes.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=10
    )
    for text in legend.get_texts():
        if text.get_text() in series:
            text.set_fontweight("bold")
    title_above(axes, "Accuracy and cost; images grow along each curve")
    axes.set(xscale="log", xlim=MADDS_LIMITS, ylim=TOP1_LIMITS)
    axes.set_xticks(MADDS_TICKS, [f"{tick:g}" for tick in MADDS_TICKS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("multiply-adds, millions", color=INK)
    axes.set_ylabel("ImageNet top-1 accuracy, %", color=INK)
    plain(axes)
    # Keeps the lowest labels of the two axes apart.
    axes.tick_params(axis="x", pad=9)
    return save_figure(figure, path)


def figure_7(before: Sequence[ActivationPattern], after: Sequence[ActivationPattern], path: Path) -> Path:
    """Draws how many channels of each expansion are positive, before and after training (Figure 7).

    Args:
        before: Patterns of the untrained network.
        after: Patterns of the trained network.
        path: PNG file to write.

    Returns:
        The file.
    """
    figure = new_figure(WIDTH, 4.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, title, patterns in zip(panels, ("Before training", "After training"), (before, after), strict=True):
        layers = [int(pattern.layer.removeprefix("layer_")) for pattern in patterns]
        channels = np.array([pattern.channels for pattern in patterns])
        mean = np.array([pattern.mean for pattern in patterns]) / channels
        deviation = np.array([pattern.deviation for pattern in patterns]) / channels
        least = np.array([pattern.min for pattern in patterns]) / channels
        most = np.array([pattern.max for pattern in patterns]) / channels
        threshold = np.array([pattern.threshold for pattern in patterns]) / channels
        axes.fill_between(layers, least, most, color=ACCENT, alpha=0.18, linewidth=0, label="fewest to most")
        axes.fill_between(
            layers,
            mean - deviation,
            mean + deviation,
            color=ACCENT,
            alpha=0.35,
            linewidth=0,
            label="± standard deviation",
        )
        axes.plot(layers, mean, color=ACCENT, linewidth=2, marker="o", markersize=4, label="mean over the pixels")
        axes.plot(
            layers, threshold, color=PALETTE[1], linewidth=1.6, linestyle=(0, (4, 2)), label="invertible from here up"
        )
        title_above(axes, title)
        axes.set_xlabel("layer", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        axes.set(ylim=(0, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        plain(axes)
    panels[0].set_ylabel("positive channels of the expansion", color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=10)
    return save_figure(figure, path)


def figure_time(t: Sequence[int], ratios: Sequence[Sequence[float]], path: Path) -> Path:
    """Draws the time of the network with its expansions split into t parts (Section 5.1).

    Args:
        t: Numbers of parts, rising.
        ratios: For each t, repeated measurements of the time divided by that of the plain network.
        path: PNG file to write.

    Returns:
        The file.
    """
    figure = new_figure(WIDTH, 4.6)
    axes = figure.add_subplot()
    axes.axvspan(*USEFUL_SPLITS, color=FAINT, alpha=0.45, linewidth=0, label="the paper's choice")
    axes.axhline(1, color=INK, linewidth=1.4, linestyle=(0, (4, 2)), label="plain network")
    low, high = [min(measured) for measured in ratios], [max(measured) for measured in ratios]
    axes.fill_between(t, low, high, color=ACCENT, alpha=0.2, linewidth=0, label="fastest to slowest")
    median = [float(np.median(measured)) for measured in ratios]
    axes.plot(t, median, color=ACCENT, linewidth=2, marker="o", markersize=5, label="median")
    title_above(axes, "Time of the network with its expansions in t parts")
    axes.set_xlabel("t, parts of each expansion", color=INK)
    axes.set_ylabel("time relative to the plain network", color=INK)
    axes.set_xticks(t)
    axes.set_ylim(bottom=0)
    plain(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=10)
    return save_figure(figure, path)


def figure_curves(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]],
    path: Path,
    *,
    title: str = "Learning curves",
    measure: str = "top-1 accuracy on validation images, %",
) -> Path:
    """Draws learning curves of several variants, each as the mean and range of its runs.

    Args:
        curves: For each variant, its runs as (epochs, values); only epochs that all its runs have are drawn.
        path: PNG file to write.
        title: Title of the figure.
        measure: Name and unit of the values.

    Returns:
        The file.

    Raises:
        UserError: The runs of a variant have no epoch in common.
    """
    figure = new_figure(WIDTH, 4.6)
    axes = figure.add_subplot()
    for color, (variant, runs) in zip(cycle(PALETTE), curves.items(), strict=False):
        tables = [dict(zip(*run, strict=True)) for run in runs]
        shared = sorted(set(tables[0]).intersection(*tables)) if tables else []
        if not shared:
            raise UserError(
                f"The {len(tables)} runs of '{variant}' have no epoch in common, so there is no mean to draw."
            )
        values = np.array([[table[epoch] for epoch in shared] for table in tables])
        mean = values.mean(axis=0)
        number = f"{len(runs)} run" if len(runs) == 1 else f"{len(runs)} runs"
        axes.fill_between(shared, values.min(axis=0), values.max(axis=0), color=color, alpha=0.25, linewidth=0)
        axes.plot(shared, mean, color=color, linewidth=2, label=f"{variant}\nlast {mean[-1]:.3g}, {number}")
    title_above(axes, title)
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel(measure, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    plain(axes)
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=10, labelspacing=1
    )
    return save_figure(figure, path)
