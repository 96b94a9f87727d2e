"""The paper's figures: size, data, labels and units."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mbv2kit.analysis.activations import ActivationPattern
from mbv2kit.errors import UserError
from mbv2kit.lab.paper import figures
from mbv2kit.lab.paper.manifold import DIMENSIONS, embed, spiral
from tests.figures import assert_legible, saved_figures, texts, written_texts

V2 = {"0.35": [(11, 45.5), (20, 50.8), (59, 60.3)], "1": [(56, 60.3), (154, 68.8), (300, 71.8)], "1.4": [(582, 75.0)]}
V1 = {"0.25": [(14, 41.5), (41, 49.8)], "1": [(186, 65.2), (569, 70.9)]}
OTHERS = {"NASNet-A": (564, 74.0), "ShuffleNet 1.5": (292, 71.5), "ShuffleNet 2": (524, 73.7)}


pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """All figures that are saved during the test."""
    return saved_figures(monkeypatch)


def assert_apart(figure: Figure) -> None:
    """Checks that no texts of the saved figures overlap."""
    boxes = [text.get_window_extent() for text in written_texts(figure) if text.get_visible()]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def line(axes: Axes, label: str) -> NDArray[np.float64]:
    """Returns x and y of the line with this label."""
    (found,) = (line for line in axes.get_lines() if line.get_label() == label)
    return np.asarray(found.get_data(), np.float64)


def pattern(layer: int, channels: int, *counts: int) -> ActivationPattern:
    return ActivationPattern(f"layer_{layer}", channels // 6, np.bincount(counts, minlength=channels + 1))


def test_figure_1_shows_the_restored_points(tmp_path: Path, drawn: list[Figure]) -> None:
    path = figures.figure_1(tmp_path / "new" / "spirals.png", seed=3)
    assert_legible(path)
    assert_apart(drawn[0])
    assert len(drawn[0].axes) == 6
    points = spiral()
    expected = [points, *(embed(points, dimensions, 3).restored for dimensions in DIMENSIONS)]
    for axes, restored in zip(drawn[0].axes, expected, strict=True):
        (curve,) = (part for part in axes.collections if isinstance(part, LineCollection))
        segments = np.array(curve.get_segments())
        np.testing.assert_allclose(segments[:, 0], restored[:-1])
        np.testing.assert_allclose(segments[:, 1], restored[1:])
        colors = np.asarray(curve.get_colors())
        assert len(np.unique(colors, axis=0)) > 100
        for low, high, values in zip(*np.array([axes.get_xlim(), axes.get_ylim()]).T, restored.T, strict=True):
            assert low < values.min()
            assert values.max() < high


def test_figure_1_shows_the_shares_of_lost_and_recoverable_points(tmp_path: Path, drawn: list[Figure]) -> None:
    figures.figure_1(tmp_path / "spirals.png", seed=0)
    shown = texts(drawn[0])
    assert [text for text in shown if text == "input" or text.startswith("n = ")] == [
        "input", "n = 2", "n = 3", "n = 5", "n = 15", "n = 30"
    ]  # fmt: skip
    embedding = embed(spiral(), 2, 0)
    lost, recoverable = 100 * embedding.lost.mean(), 100 * embedding.recoverable.mean()
    assert f"{lost:.0f}% lost (dot), {recoverable:.0f}% recoverable" in shown
    assert shown.count("0% lost, 100% recoverable") == 2


def test_the_seed_of_figure_1_is_typical() -> None:
    points = spiral()

    def oddity(seed: int) -> float:
        off = 0.0
        for n in DIMENSIONS:
            embedding = embed(points, n, seed)
            off += (embedding.lost.mean() - 2.0**-n) ** 2
            off += (embedding.recoverable.mean() - 1 + (n + 1) * 2.0**-n) ** 2
        return off

    assert min(range(100), key=oddity) == figures.TYPICAL_SEED


def test_figure_5_has_the_papers_axes_and_every_point(tmp_path: Path, drawn: list[Figure]) -> None:
    path = figures.figure_5({"MobileNetV2": V2, "MobileNetV1": V1}, OTHERS, tmp_path / "figure5.png")
    assert_legible(path)
    assert_apart(drawn[0])
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (7.5, 600)
    assert axes.get_ylim() == (35, 77.5)
    assert axes.get_xlabel() == "multiply-adds, millions"
    assert axes.get_ylabel() == "ImageNet top-1 accuracy, %"
    curves = [list(zip(*np.asarray(line.get_data()).tolist(), strict=True)) for line in axes.get_lines()]
    assert curves == [*V2.values(), *V1.values(), *([point] for point in OTHERS.values())]
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["MobileNetV2", *V2, "MobileNetV1", *V1, *OTHERS]


def test_figure_5_draws_more_networks_than_it_has_styles(tmp_path: Path, drawn: list[Figure]) -> None:
    one, seven = ({f"{width}": [(10.0 + width, 40.0 + width)] for width in range(count)} for count in (1, 7))
    series = {"seven widths": seven, **{f"network {number}": one for number in range(4)}}
    points = {f"point {number}": (100.0 + 40 * number, 50.0) for number in range(7)}
    path = figures.figure_5(series, points, tmp_path / "figure5.png")
    assert_legible(path)
    assert_apart(drawn[0])
    assert len(drawn[0].axes[0].get_lines()) == 7 + 4 + 7


def test_figure_7_shows_shares_of_the_channels_and_the_threshold(tmp_path: Path, drawn: list[Figure]) -> None:
    before = [pattern(3, 96, 40, 48, 56), pattern(4, 144, 70, 74)]
    after = [pattern(3, 96, 12, 84), pattern(4, 144, 0, 144)]
    path = figures.figure_7(before, after, tmp_path / "figure7.png")
    assert_legible(path)
    assert_apart(drawn[0])
    left, right = drawn[0].axes
    np.testing.assert_allclose(line(left, "mean over the pixels"), np.array([[3, 4], [0.5, 0.5]]))
    np.testing.assert_allclose(line(right, "mean over the pixels"), np.array([[3, 4], [0.5, 0.5]]))
    np.testing.assert_allclose(line(right, "invertible from here up"), np.array([[3, 4], [1 / 6, 1 / 6]]))
    bands = {str(part.get_label()): part for part in right.collections if isinstance(part, PolyCollection)}
    extent = bands["fewest to most"].get_paths()[0].get_extents()
    assert (extent.y0, extent.y1) == (0, 1)
    deviation = bands["± standard deviation"].get_paths()[0].vertices
    assert {round(float(y), 6) for _, y in np.asarray(deviation)} == {0.125, 0.875, 0.0, 1.0}
    assert {"positive channels of the expansion", "layer", "Before training", "After training"} <= set(texts(drawn[0]))
    assert left.get_ylim() == (0, 1)


def test_figure_time_shows_median_range_and_the_plain_network(tmp_path: Path, drawn: list[Figure]) -> None:
    t = list(range(1, 11))
    ratios = [[0.9 + 0.1 * parts, 1 + 0.1 * parts, 2 + 0.1 * parts] for parts in t]
    path = figures.figure_time(t, ratios, tmp_path / "time.png")
    assert_legible(path)
    assert_apart(drawn[0])
    (axes,) = drawn[0].axes
    np.testing.assert_allclose(line(axes, "median"), np.array([t, [1 + 0.1 * parts for parts in t]]))
    assert line(axes, "plain network")[1].tolist() == [1, 1]
    (band,) = (part for part in axes.collections if part.get_label() == "fastest to slowest")
    extent = band.get_paths()[0].get_extents()
    assert (extent.y0, extent.y1) == pytest.approx((1.0, 3.0))
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylabel() == "time relative to the plain network"


def test_figure_curves_shows_mean_and_range_of_the_runs(tmp_path: Path, drawn: list[Figure]) -> None:
    curves = {
        "linear": [([1, 2, 3], [10.0, 20.0, 30.0]), ([1, 2, 3, 4], [20.0, 40.0, 50.0, 99.0])],
        "ReLU6": [([1, 2, 3], [5.0, 6.0, 7.0])],
    }
    path = figures.figure_curves(curves, tmp_path / "curves.png", title="Figure 6a", measure="top-1, %")
    assert_legible(path)
    assert_apart(drawn[0])
    (axes,) = drawn[0].axes
    # Epoch 4 is left out: only one of the two runs has it.
    assert line(axes, "linear\nlast 40, 2 runs").tolist() == [[1, 2, 3], [15, 30, 40]]
    assert line(axes, "ReLU6\nlast 7, 1 run").tolist() == [[1, 2, 3], [5, 6, 7]]
    band, narrow = (part.get_paths()[0].get_extents() for part in axes.collections)
    assert (band.y0, band.y1) == (10, 50)
    assert (narrow.y0, narrow.y1) == (5, 7)
    assert (axes.get_title(loc="left"), axes.get_ylabel(), axes.get_xlabel()) == ("Figure 6a", "top-1, %", "epoch")


@pytest.mark.parametrize("runs", [[], [([1, 2], [3.0, 4.0]), ([5, 6], [7.0, 8.0])]])
def test_runs_without_a_common_epoch_are_refused(tmp_path: Path, runs: list[tuple[list[float], list[float]]]) -> None:
    with pytest.raises(UserError, match=rf"The {len(runs)} runs of 'linear' have no epoch in common"):
        figures.figure_curves({"linear": runs}, tmp_path / "curves.png")
