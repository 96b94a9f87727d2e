"""What tests of diagrams share: the figures behind the files, and what is true of every good one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image


def saved_figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Returns a list to which every figure is added when it is saved, as long as the patch holds."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure: Figure, file: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, file, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def written_texts(figure: Figure) -> list[Text]:
    """Returns every text of a figure that says something."""
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text().strip()]


def texts(figure: Figure) -> list[str]:
    """Returns what the texts of a figure say."""
    return [text.get_text() for text in written_texts(figure)]


def assert_legible(path: Path) -> None:
    """Checks that a file is a PNG of at least 1200 pixels with something on it, of which nothing is cut off."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1200
        gray = np.asarray(image.convert("L"))
    # A frame of blank paper all around: nothing is cut off at the border.
    for edge in (gray[:4], gray[-4:], gray[:, :4], gray[:, -4:]):
        assert (edge == 255).all()
    assert (gray < 128).mean() > 0.002
