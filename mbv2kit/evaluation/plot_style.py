"""The common style of all plots: colors, sizes, frame."""

from io import BytesIO
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbv2kit.files.writing import write_atomically

DPI = 150
WIDTH = 8.0
PAD = 0.12

INK, FAINT, ABSENT = "#2b2d33", "#d9dbe0", "#eceef1"
ACCENT = "#2f6db5"
# Ten colors that color-blind readers can distinguish (Petroff, 2021).
PALETTE = mpl.color_sequences["petroff10"]


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure with sides in inches, without a window or global state of matplotlib."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=PAD, h_pad=PAD)
    return figure


def title_above(axes: Axes, text: str, pad: float = 10) -> None:
    """Writes a title above the left edge, ``pad`` points above the axes."""
    axes.set_title(text, loc="left", color=INK, fontsize=12, fontweight="bold", pad=pad)


def plain(axes: Axes) -> None:
    """Reduces the frame to two faint edges and adds a grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=0)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure and returns the file; a missing folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."))
    write_atomically(path, content.getvalue())
    return path
