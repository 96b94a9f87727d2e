"""The one hand in which all diagrams are drawn: colors, sizes, frame."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150
WIDTH = 8.0
PAD = 0.12

INK, FAINT, ABSENT = "#2b2d33", "#d9dbe0", "#eceef1"
ACCENT = "#2f6db5"
# Ten hues that stay apart for color-blind readers (Petroff, 2021).
PALETTE = mpl.color_sequences["petroff10"]


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure of its own, sides in inches; no window and no global state of matplotlib's."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=PAD, h_pad=PAD)
    return figure


def title_above(axes: Axes, text: str, pad: float = 10) -> None:
    """Writes a title over the left edge, ``pad`` points above the axes."""
    axes.set_title(text, loc="left", color=INK, fontsize=12, fontweight="bold", pad=pad)


def plain(axes: Axes) -> None:
    """Leaves of the frame two faint edges and a grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=0)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure, makes its folder if need be, and returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
