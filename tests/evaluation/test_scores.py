"""The file and the tables that an evaluation ends in."""

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mbv2kit.errors import UserError
from mbv2kit.evaluation import (
    Scores,
    create_evaluator,
    model_in_brief,
    per_class_table,
    print_scores,
    write_metrics,
)
from mbv2kit.evaluation.evaluators.accuracy import Accuracy
from mbv2kit.evaluation.evaluators.average_precision import AveragePrecision
from mbv2kit.evaluation.evaluators.mean_iou import MeanIoU

CELLS = Scores(
    {"AP": 0.5391, "APs": math.nan},
    {"RBC": {"AP": 0.61, "objects": 1138}, "WBC [1]": {"AP": math.nan, "objects": 0}},
)


def write(path: Path, scores: Scores, **extra: Any) -> Any:
    write_metrics(
        path, task="detection", dataset="voc", split="val", images=87, seconds=1.23456, scores=scores, **extra
    )
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def printed(scores: Scores) -> str:
    screen = StringIO()
    print_scores(scores, Console(file=screen, width=100))
    return screen.getvalue()


def test_metrics_file_has_its_documented_keys(tmp_path: Path) -> None:
    content = write(tmp_path / "new" / "metrics.json", CELLS)
    assert content == {
        "task": "detection",
        "dataset": "voc",
        "split": "val",
        "images": 87,
        "seconds": 1.235,
        "metrics": {"AP": 0.5391, "APs": None},
        "per_class": {"RBC": {"AP": 0.61, "objects": 1138}, "WBC [1]": {"AP": None, "objects": 0}},
        "notes": ["APs could not be measured on this data."],
    }
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["metrics.json"]


def test_metrics_file_takes_further_entries(tmp_path: Path) -> None:
    content = write(tmp_path / "metrics.json", CELLS, weights="ema", losses=[math.nan, 0.5, math.inf])
    assert content["weights"] == "ema"
    assert content["losses"] == [None, 0.5, None]


def test_the_twelve_metrics_of_coco_fit_a_narrow_terminal() -> None:
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    screen = StringIO()
    print_scores(Scores({name: 0.1 + i / 1000 for i, name in enumerate(names)}, {}), Console(file=screen, width=80))
    assert all(f"0.{100 + i}" in screen.getvalue() and name in screen.getvalue() for i, name in enumerate(names))


def test_notes_are_printed_and_written(tmp_path: Path) -> None:
    scores = replace(CELLS, notes=("Class [b] never occurs.",))
    assert "Class [b] never occurs." in printed(scores)
    assert write(tmp_path / "metrics.json", scores)["notes"] == ["Class [b] never occurs."]


def test_a_metric_without_a_number_has_a_sentence() -> None:
    numbers = {"top1": math.nan, "top5": 0.5, "ece": math.nan}
    assert Scores(numbers, {}).notes == ("top1 and ece could not be measured on this data.",)
    assert Scores(numbers, {}, ("There was no image.",)).notes == ("There was no image.",)
    assert Scores({"top1": 0.0}, {}).notes == ()


def test_a_model_in_brief_identifies_it_without_class_names() -> None:
    head = {"name": "ssdlite", "padding": "tf_same"}
    description = {
        "schema_version": 1,
        "backbone": {"name": "mobilenet_v2", "width": 1.4},
        "heads": {"classification": {"name": "classifier"}, "detection": head},
        "class_names": {"classification": ["a"] * 1000, "detection": ["a", "b"]},
        "input": {"size": [320, 320], "resize": "stretch"},
        "mean": [127.5] * 3,
    }
    assert model_in_brief(description, "detection") == {
        "backbone": {"name": "mobilenet_v2", "width": 1.4},
        "head": head,
        "classes": 2,
        "input": {"size": [320, 320], "resize": "stretch"},
    }
    with pytest.raises(LookupError):
        model_in_brief(description, "segmentation")


def test_metrics_file_replaces_an_older_one_or_leaves_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write(path, CELLS)
    assert write(path, Scores({"AP": 1.0}, {}))["metrics"] == {"AP": 1.0}
    with pytest.raises(TypeError):
        write(path, CELLS, model=object())
    assert json.loads(path.read_text())["metrics"] == {"AP": 1.0}


def test_overall_metrics_and_a_row_per_class_are_printed() -> None:
    text = printed(CELLS)
    assert "0.539" in text
    assert [word in text for word in ("RBC", "0.610", "1138", "WBC [1]", " - ")] == [True] * 5
    assert text.index("RBC") < text.index("WBC [1]")


def test_brackets_in_a_class_name_are_shown_as_they_are() -> None:
    assert "[red] cell" in printed(Scores({"AP": 0.5}, {"[red] cell": {"AP": 0.5}}))


def test_forty_classes_are_all_shown() -> None:
    table = per_class_table(Scores({}, {f"class {index}": {"AP": index / 40} for index in range(40)}))
    assert table.row_count == 40
    assert table.caption is None


def test_of_a_long_list_the_best_and_the_worst_are_shown() -> None:
    per_class = {f"<{index}>": {"AP": math.nan if index >= 70 else index / 100} for index in range(80)}
    scores = Scores({"AP": 0.3}, per_class)
    table = per_class_table(scores)
    names = [str(cell) for cell in table.columns[0].cells]
    assert names == [f"<{index}>" for index in (*range(69, 59, -1), *range(9, -1, -1))]
    assert "60 more classes are in metrics.json" in printed(scores)


def test_a_long_list_with_few_metrics_shows_each_once() -> None:
    per_class = {f"<{index}>": {"AP": math.nan if index >= 12 else index / 100} for index in range(80)}
    table = per_class_table(Scores({"AP": 0.3}, per_class))
    assert [str(cell) for cell in table.columns[0].cells] == [f"<{index}>" for index in range(11, -1, -1)]
    assert table.caption == "best 10 and worst 2; 68 more classes are in metrics.json"


def test_no_class_at_all_prints() -> None:
    assert "AP" in printed(Scores({"AP": math.nan}, {}))


@pytest.mark.parametrize(
    ("task", "kind", "metrics"),
    [
        ("classification", Accuracy, ["top1", "top5"]),
        (
            "detection",
            AveragePrecision,
            ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"],
        ),
        ("segmentation", MeanIoU, ["mIoU", "pixel_accuracy"]),
    ],
)
def test_each_task_has_its_evaluator(task: str, kind: type, metrics: list[str], tmp_path: Path) -> None:
    evaluator = create_evaluator(task, ["a", "b"])
    assert isinstance(evaluator, kind)
    assert evaluator.images == 0
    scores = evaluator.compute()
    assert list(scores.metrics) == metrics
    assert list(scores.per_class) == ["a", "b"]
    assert all(value is None for value in write(tmp_path / "metrics.json", scores)["metrics"].values())


def test_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'detection'"):
        create_evaluator("detektion", ["a"])
