"""Plots of an evaluation and of a training run, as PNG files at least 1200 pixels wide.

Every function draws on its own figure, without a window or global state of matplotlib.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.evaluation.classes import mean_of_known, share
from mbv2kit.evaluation.plot_style import (
    ABSENT,
    ACCENT,
    INK,
    PAD,
    PALETTE,
    WIDTH,
    new_figure,
    plain,
    save_figure,
    title_above,
)
from mbv2kit.texts import shown

NUMBERED = 20
NAMED = 100
CURVES = 10
MARKED = 40

_Curve = dict[int, float]


def confusion_matrix(matrix: NDArray[np.int64], class_names: Sequence[str], path: Path) -> Path:
    """Draws the confusion matrix, in percent of each true class.

    With up to 20 classes, cells have numbers; with up to 100, axes have class names.

    Args:
        matrix: ``(K, K)`` counts; rows are the true classes. A row without counts is gray.
        class_names: The K names.
        path: The PNG file to write.

    Returns:
        The file.
    """
    classes = len(class_names)
    percent = 100 * share(matrix, matrix.sum(axis=1, keepdims=True))
    side = max(WIDTH, 1.5 + 0.2 * classes) if classes <= NAMED else 1.5 * WIDTH
    figure = new_figure(side, side * 0.94)
    # The cells are square, so the layout must shrink to them.
    figure.set_layout_engine("compressed", w_pad=PAD, h_pad=PAD)
    axes = figure.add_subplot()
    colors = mpl.colormaps["Blues"].with_extremes(bad=ABSENT)
    heat = axes.imshow(percent, cmap=colors, vmin=0, vmax=100, interpolation="nearest")
    title_above(axes, "Confusion matrix, percent of each true class")
    axes.set_xlabel("predicted class", color=INK)
    axes.set_ylabel("true class", color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    if classes <= NAMED:
        names = [_label(name) for name in class_names]
        size = 10 if classes <= NUMBERED else 8
        axes.set_xticks(range(classes), names, rotation=45 if classes <= NUMBERED else 90, fontsize=size)
        axes.set_yticks(range(classes), names, fontsize=size)
        if classes <= NUMBERED:
            for label in axes.get_xticklabels():
                label.set(horizontalalignment="right", rotation_mode="anchor")
        # White lines between the cells.
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.0)
        axes.tick_params(which="minor", length=0)
    if classes <= NUMBERED:
        _write_cells(axes, percent)
    scale = axes.inset_axes((1.02, 0, 0.03, 1))
    figure.colorbar(heat, cax=scale)
    scale.tick_params(length=0, colors=INK)
    scale.spines[:].set_visible(False)
    return save_figure(figure, path)


def _write_cells(axes: Axes, percent: NDArray[np.float64]) -> None:
    size = 13 if len(percent) <= 6 else 11 if len(percent) <= 12 else 9
    for row, column in np.argwhere(percent > 0):
        value = percent[row, column]
        # A small fraction is not zero.
        text = f"{value:.0f}" if value >= 0.5 else "<1"
        color = "white" if value > 65 else INK
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def precision_recall_curves(precision: NDArray[np.float64], class_names: Sequence[str], path: Path) -> Path:
    """Draws precision over recall at IoU 0.50: the mean over the classes, and a curve for each of up to ten classes.

    If there are more than ten classes, the five best and the five worst are drawn.

    Args:
        precision: ``(K, 101)`` in 0..1 at recall 0, 0.01 … 1; NaN for a class without a true object.
        class_names: The K names.
        path: The PNG file to write.

    Returns:
        The file.
    """
    measured = [index for index in range(len(class_names)) if not np.isnan(precision[index]).any()]
    ranked = sorted(measured, key=lambda index: precision[index].mean(), reverse=True)
    drawn = ranked if len(ranked) <= CURVES else ranked[: CURVES // 2] + ranked[-CURVES // 2 :]
    recall = np.linspace(0, 1, precision.shape[1])
    figure = new_figure(WIDTH, 4.8)
    axes = figure.add_subplot()
    if measured:
        mean = precision[measured].mean(axis=0)
        label = f"{mean.mean():.3f}  mean of {len(measured)}"
        axes.plot(recall, mean, color=INK, linewidth=2.4, linestyle=(0, (4, 2)), label=label, zorder=3)
        for color, index in zip(PALETTE, drawn, strict=False):
            label = f"{precision[index].mean():.3f}  {_label(class_names[index])}"
            axes.plot(recall, precision[index], color=color, linewidth=1.8, label=label)
        left_out = len(measured) - len(drawn)
        legend = axes.legend(
            title="AP50" if not left_out else f"AP50 ({left_out} classes not shown)",
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
            labelcolor=INK,
            fontsize=10,
            alignment="left",
        )
        legend.get_title().set(color=INK, fontweight="bold", fontsize=10)
    else:
        axes.text(0.5, 0.5, "no objects", ha="center", va="center", color=INK, fontsize=12)
    title_above(axes, "Precision and recall at IoU 0.50")
    axes.set(xlim=(0, 1.005), ylim=(0, 1.02))
    axes.set_xlabel("recall", color=INK)
    axes.set_ylabel("precision", color=INK)
    plain(axes)
    return save_figure(figure, path)


def class_bars(values: NDArray[np.float64], class_names: Sequence[str], path: Path, *, measure: str) -> Path:
    """Draws a bar per class, the best at the top, and a line at the mean.

    Args:
        values: ``(K,)`` in 0..1; NaN for a class that does not occur, which has no bar and is not part of the mean.
        class_names: The K names.
        path: The PNG file to write.
        measure: Name of the metric, such as "IoU".

    Returns:
        The file.
    """
    order = sorted(range(len(class_names)), key=lambda index: (math.isnan(values[index]), -values[index]))
    figure = new_figure(WIDTH, max(2.4, 1.3 + 0.3 * len(order)))
    axes = figure.add_subplot()
    for row, index in enumerate(order):
        absent = math.isnan(values[index])
        axes.barh(row, 1, height=0.68, color=ABSENT)
        axes.barh(row, 0 if absent else values[index], height=0.68, color=ACCENT)
        text = "does not occur" if absent else f"{values[index]:.3f}"
        axes.text(1.015, row, text, va="center", color=INK, fontsize=10)
    mean = mean_of_known(values)
    if not math.isnan(mean):
        axes.axvline(mean, color=INK, linewidth=1.4, linestyle=(0, (4, 2)))
        axes.annotate(
            f"mean {mean:.3f}",
            (mean, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=10,
        )
    axes.set_yticks(range(len(order)), [_label(class_names[index]) for index in order], fontsize=10)
    axes.set(xlim=(0, 1), ylim=(len(order) - 0.4, -0.6))
    title_above(axes, f"{measure} per class", pad=22)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    return save_figure(figure, path)


def learning_curves(metrics_csv: Path, out: Path) -> Path:
    """Draws loss, validation metrics and learning rate over the epochs, each in its own panel.

    Of several heads it also shows how their gradients agree.

    Args:
        metrics_csv: Table with a column ``epoch``, counted from 0 there and from 1 in the drawing, and any of
            ``…loss…``, ``val/…``, ``pull/…`` and ``lr…``; cells may be empty. If an epoch has several rows, their mean
            is drawn. Other columns and empty panels are left out.
        out: The PNG file to write.

    Returns:
        ``out``.

    Raises:
        UserError: The file is missing, is not a table of numbers, or has nothing to draw.
    """
    columns = epoch_means(metrics_csv)
    losses = {
        name: curve
        for name, curve in columns.items()
        # A head may be called so, too.
        if "loss" in name.rpartition("/")[2] and not name.startswith("pull/")
    }
    cosines, norms = (
        {name.removeprefix(prefix): curve for name, curve in columns.items() if name.startswith(prefix)}
        for prefix in ("pull/cosine/", "pull/norm/")
    )
    rates = {name: curve for name, curve in columns.items() if name.startswith("lr")}
    metrics = {name: curve for name, curve in columns.items() if name.startswith("val/") and name not in losses}
    panels: list[tuple[str, dict[str, _Curve], Callable[[_Curve], str]]] = [
        ("Loss", losses, lambda curve: f"last {_last(curve):.3g}"),
        ("Validation", {name.removeprefix("val/"): curve for name, curve in metrics.items()}, _best),
        ("Gradients of the heads: cosine", cosines, lambda curve: f"last {_last(curve):.2g}"),
        ("Gradients of the heads: norm", norms, lambda curve: f"last {_last(curve):.2g}"),
        ("Learning rate", rates, lambda curve: f"last {_last(curve):.2g}"),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        raise UserError(f"{metrics_csv}: there is no epoch with a loss, a val/ metric or a learning rate to draw.")
    figure = new_figure(WIDTH, 0.5 + 2.5 * len(panels))
    stack = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, curves, note) in zip(stack, panels, strict=True):
        for position, (name, curve) in enumerate(curves.items()):
            epochs, values = [epoch + 1 for epoch in curve], list(curve.values())
            axes.plot(
                epochs,
                values,
                color=PALETTE[position % len(PALETTE)],
                linewidth=1.8,
                marker="o" if len(epochs) <= MARKED else None,
                markersize=3.5,
                label=f"{_label(name)}   {note(curve)}",
            )
        title_above(axes, title)
        plain(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=9)
    stack[-1].set_xlabel("epoch", color=INK)
    stack[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    return save_figure(figure, out)


def epoch_means(metrics_csv: Path) -> dict[str, dict[int, float]]:
    """Returns, for each column of ``metrics.csv``, the mean of the cells of each epoch, in the order of the epochs.

    Empty cells are ignored; empty columns, ``epoch`` and ``step`` are left out.

    Raises:
        UserError: The file is missing, or is not a table of numbers with a column ``epoch``.
    """
    cells: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with metrics_csv.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                epoch = int(float(row["epoch"]))
                for name, cell in row.items():
                    if cell and name not in ("epoch", "step"):
                        cells[name][epoch].append(float(cell))
    except FileNotFoundError:
        raise UserError(f"{metrics_csv}: there is no such file.") from None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{metrics_csv}: expected a table of numbers with a column 'epoch' ({error}).") from None
    return {
        name: {epoch: sum(values) / len(values) for epoch, values in sorted(epochs.items())}
        for name, epochs in cells.items()
    }


def _last(curve: _Curve) -> float:
    return curve[max(curve)]


def _best(curve: _Curve) -> str:
    known = {epoch: value for epoch, value in curve.items() if not math.isnan(value)}
    if not known:
        return "not measured"
    epoch = max(known, key=known.__getitem__)
    return f"best {known[epoch]:.3f}, epoch {epoch + 1}"


def _label(name: str, longest: int = 26) -> str:
    # Matplotlib treats text between two dollar signs as a formula.
    name = shown(name)
    short = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return short.replace("$", r"\$")
