"""The diagrams: that each is an image of the promised size which shows its figures, also in the odd cases."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.evaluation import create_evaluator, plots
from mbv2kit.structures import Classification, Detections, Prediction, Sample, Segmentation
from tests.figures import assert_legible, saved_figures, texts

RECALL = np.linspace(0, 1, 101)


pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved during the test."""
    return saved_figures(monkeypatch)


def curve(ap50: float) -> NDArray[np.float64]:
    """Precision 1 up to the recall that gives about this area."""
    return (ap50 > RECALL).astype(np.float64)


@pytest.mark.parametrize("classes", [1, 3, 20, 21, 101])
def test_confusion_matrix_of_any_number_of_classes(classes: int, tmp_path: Path, drawn: list[Figure]) -> None:
    names = [f"class number {index}" for index in range(classes)]
    path = plots.confusion_matrix(np.eye(classes, dtype=np.int64) * 7, names, tmp_path / "deep" / "matrix.png")
    assert_legible(path)
    assert (names[-1] in texts(drawn[0])) == (classes <= 100)
    assert sum(text.get_text() == "100" for text in drawn[0].axes[0].texts) == (classes if classes <= 20 else 0)


def test_confusion_matrix_shows_percent_of_the_true_class(tmp_path: Path, drawn: list[Figure]) -> None:
    matrix = np.array([[30, 10, 0], [0, 0, 0], [1, 0, 999]])
    plots.confusion_matrix(matrix, ["a", "b", "c"], tmp_path / "matrix.png")
    cells = {text.get_position(): text.get_text() for text in drawn[0].axes[0].texts}
    assert cells == {(0, 0): "75", (1, 0): "25", (0, 2): "<1", (2, 2): "100"}


def test_names_are_neither_formulas_nor_endless(tmp_path: Path, drawn: list[Figure]) -> None:
    names = [r"5$ and 10$ \frac", "x" * 60]
    assert_legible(plots.confusion_matrix(np.eye(2, dtype=np.int64), names, tmp_path / "matrix.png"))
    assert_legible(plots.class_bars(np.array([0.5, 0.7]), names, tmp_path / "bars.png", measure="IoU"))
    assert "x" * 25 + "…" in texts(drawn[0])


def test_precision_recall_draws_each_of_few_classes(tmp_path: Path, drawn: list[Figure]) -> None:
    precision = np.stack([curve(0.2), np.full(101, np.nan), curve(0.8)])
    assert_legible(plots.precision_recall_curves(precision, ["low", "absent", "high"], tmp_path / "pr.png"))
    axes = drawn[0].axes[0]
    labels = [str(line.get_label()) for line in axes.lines]
    assert [label.split("  ")[1] for label in labels] == ["mean of 2", "high", "low"]
    assert [float(label.split()[0]) for label in labels] == pytest.approx(
        [(curve(0.2).mean() + curve(0.8).mean()) / 2, curve(0.8).mean(), curve(0.2).mean()], abs=5e-4
    )


def test_precision_recall_draws_the_ends_of_many_classes(tmp_path: Path, drawn: list[Figure]) -> None:
    precision = np.stack([curve(index / 80) for index in range(80)])
    assert_legible(plots.precision_recall_curves(precision, [f"<{i}>" for i in range(80)], tmp_path / "pr.png"))
    names = [str(line.get_label()).split("  ")[1] for line in drawn[0].axes[0].lines]
    assert names == ["mean of 80", "<79>", "<78>", "<77>", "<76>", "<75>", "<4>", "<3>", "<2>", "<1>", "<0>"]
    assert "AP50 (70 classes not shown)" in texts(drawn[0])


def test_precision_recall_without_an_object_says_so(tmp_path: Path, drawn: list[Figure]) -> None:
    assert_legible(plots.precision_recall_curves(np.full((2, 101), np.nan), ["a", "b"], tmp_path / "pr.png"))
    assert "no objects" in texts(drawn[0])


@pytest.mark.parametrize("classes", [1, 2, 60])
def test_bars_of_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    names = [f"class number {index}" for index in range(classes)]
    assert_legible(plots.class_bars(np.linspace(0, 1, classes), names, tmp_path / "bars.png", measure="IoU"))


def test_bars_are_sorted_and_show_the_mean(tmp_path: Path, drawn: list[Figure]) -> None:
    values = np.array([0.25, np.nan, 1.0, 0.0])
    assert_legible(plots.class_bars(values, ["a", "b", "c", "d"], tmp_path / "bars.png", measure="IoU"))
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a", "d", "b"]
    assert [text.get_text() for text in axes.texts] == ["1.000", "0.250", "0.000", "does not occur", "mean 0.417"]


def test_bars_without_any_value(tmp_path: Path) -> None:
    assert_legible(plots.class_bars(np.full(2, np.nan), ["a", "b"], tmp_path / "bars.png", measure="IoU"))


def test_learning_curves_join_the_rows_of_an_epoch(tmp_path: Path, drawn: list[Figure]) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text(
        "epoch,step,lr,train/loss,val/AP,val/loss,images_per_second\n"
        "0,5,0.1,4.0,,,90\n"
        "0,9,0.1,2.0,,,91\n"
        "0,9,,,0.30,3.5,\n"
        "1,19,0.05,1.0,,,93\n"
        "1,19,,,0.50,2.5,\n"
        "2,29,0.01,0.5,,,93\n"
        "2,29,,,nan,2.6,\n"
    )
    out = plots.learning_curves(table, tmp_path / "plots" / "learning_curves.png")
    assert_legible(out)
    loss, figures, rate = drawn[0].axes
    train, val = loss.lines
    assert np.asarray(train.get_xydata()).tolist() == [[1, 3.0], [2, 1.0], [3, 0.5]]
    assert np.asarray(val.get_xydata()).tolist() == [[1, 3.5], [2, 2.5], [3, 2.6]]
    assert [line.get_label() for line in figures.lines] == ["AP   best 0.500, epoch 2"]
    assert np.asarray(rate.lines[0].get_ydata()).tolist() == [0.1, 0.05, 0.01]


def test_learning_curves_of_a_single_epoch_without_validation(tmp_path: Path, drawn: list[Figure]) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text("epoch,step,train/loss,val/AP\n0,9,2.5,\n")
    assert_legible(plots.learning_curves(table, tmp_path / "curves.png"))
    assert len(drawn[0].axes) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("", "no epoch with a loss"),
        ("epoch,step,train/loss\n", "no epoch with a loss"),
        ("step,train/loss\n1,2.0\n", "a column 'epoch'"),
        ("epoch,train/loss\n1,low\n", "a table of numbers"),
        ("epoch,train/loss\n1,2,3\n", "a table of numbers"),
    ],
)
def test_learning_curves_refuse_what_is_no_table_of_epochs(content: str | None, message: str, tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    if content is not None:
        table.write_text(content)
    with pytest.raises(UserError, match=rf"metrics\.csv: .*{message}"):
        plots.learning_curves(table, tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("task", "prediction", "files"),
    [
        (
            "classification",
            Classification(np.array([1, 0]), np.array([0.9, 0.1], dtype=np.float32)),
            ["confusion_matrix.png"],
        ),
        (
            "detection",
            Detections(np.array([[0, 0, 6, 6]], dtype=np.float32), np.array([1]), np.array([0.9], dtype=np.float32)),
            ["precision_recall.png"],
        ),
        ("segmentation", Segmentation(np.ones((8, 8), dtype=np.uint8)), ["iou_per_class.png", "confusion_matrix.png"]),
    ],
)
@pytest.mark.parametrize("images", [0, 2])
def test_each_evaluator_draws(task: str, prediction: Prediction, files: list[str], images: int, tmp_path: Path) -> None:
    evaluator = create_evaluator(task, ["a", "b"])
    ground_truth = Sample(
        image=np.zeros((8, 8, 3), dtype=np.uint8),
        image_id="a.jpg",
        label=1,
        boxes=np.array([[0, 0, 6, 6]], dtype=np.float32),
        labels=np.array([1]),
        mask=np.ones((8, 8), dtype=np.uint8),
    )
    for _ in range(images):
        evaluator.update(prediction, ground_truth)
    saved = evaluator.save_plots(tmp_path / "plots")
    assert saved == [tmp_path / "plots" / name for name in files]
    for path in saved:
        assert_legible(path) if images else path.stat()
