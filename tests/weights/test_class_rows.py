"""Rows of heads follow the names of their classes: what a model says of a class is what the weights said of it."""

from typing import Any

import pytest
import torch

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task
from mbv2kit.weights.class_rows import rows_by_name
from mbv2kit.weights.partial_loading import LoadReport, load_tensors

HEADS: list[tuple[Task, dict[str, Any]]] = [
    ("classification", {"name": "classifier"}),
    ("classification", {"name": "classifier", "background": True}),
    ("detection", {"name": "ssdlite"}),
    (
        "detection",
        {"name": "yolo_v2", "channels": 8, "num_anchors": 3, "anchors": [[0.1, 0.1], [0.3, 0.2], [0.7, 0.9]]},
    ),
    ("segmentation", {"name": "deeplab_v3", "class_weights": [1.0, 2.0, 3.0]}),
    ("segmentation", {"name": "deeplab_v3", "aspp": True}),
]
# The raw tensor that has the classes last, or second.
LOGITS = {"classification": "logits", "detection": "class_logits", "segmentation": "logits"}


def build(task: Task, head: dict[str, Any], names: tuple[str, ...]) -> VisionModel:
    options = {key: value for key, value in head.items() if key != "class_weights" or len(value) == len(names)}
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={task: options},
        class_names={task: names},
        input=Preprocess((64, 64), "stretch"),
    )
    return VisionModel(spec).eval()


def load(model: VisionModel, start: VisionModel) -> LoadReport:
    tensors = start.state_dict()
    return load_tensors(model, tensors, rows_by_name(model, start.class_names, tensors))


@torch.no_grad()
def logits(model: VisionModel, task: Task) -> torch.Tensor:
    """Returns (classes, everything else) of a fixed image."""
    image = torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64).remainder(251).to(torch.uint8)
    found = model(image)[task][LOGITS[task]]
    rows: torch.Tensor = found.movedim(1 if task == "segmentation" else -1, 0).flatten(1)
    # Without a background.
    return rows[-len(model.class_names[task]) :]


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_a_class_keeps_its_rows_in_another_order(task: Task, head: dict[str, Any]) -> None:
    start, model = build(task, head, ("a", "b", "c")), build(task, head, ("c", "a", "b"))
    report = load(model, start)
    assert not report.missing
    assert set(report.renamed.values()) == {"loaded: 3 of 3 classes, by their names"}
    torch.testing.assert_close(logits(model, task), logits(start, task)[[2, 0, 1]])


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_classes_without_a_namesake_stay_fresh(task: Task, head: dict[str, Any]) -> None:
    start, model = build(task, head, ("a", "b", "c")), build(task, head, ("new", "c", "other", "a"))
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load(model, start)
    assert set(report.renamed.values()) == {"loaded: 2 of 4 classes, by their names; the others stay fresh"}
    torch.testing.assert_close(logits(model, task)[[3, 1]], logits(start, task)[[0, 2]])
    for name in report.renamed:
        tensor = model.state_dict()[name]
        assert not torch.equal(tensor, fresh[name]) or not fresh[name].any()


def test_other_classes_of_the_same_number_are_never_taken_by_position() -> None:
    start, model = (build("classification", {"name": "classifier"}, names) for names in (("a", "b"), ("x", "y")))
    fresh = model.state_dict()["heads.classification.linear.weight"].clone()
    report = load(model, start)
    assert torch.equal(model.state_dict()["heads.classification.linear.weight"], fresh)
    assert report.skipped["heads.classification.linear.weight"] == "other classes in the weights; stays fresh"


@torch.no_grad()
def test_a_fresh_class_next_to_loaded_ones_scores_next_to_nothing() -> None:
    """Features that were trained may be large, and random rows would score whatever they like."""
    head = {"name": "ssd", "scores": "sigmoid"}
    start, model = build("detection", head, ("a", "b")), build("detection", head, ("a", "new"))
    for name, tensor in start.state_dict().items():
        if name.startswith("heads.detection.extras") and name.endswith("norm.bias"):
            tensor += 5
    load(model, start)
    torch.testing.assert_close(logits(model, "detection")[0], logits(start, "detection")[0])
    torch.testing.assert_close(
        logits(model, "detection")[1].sigmoid(), torch.full((len(logits(model, "detection")[1]),), 0.01)
    )


def test_a_name_that_the_weights_have_twice_is_no_namesake() -> None:
    head = {"name": "classifier"}
    start, model = (
        build("classification", head, ("crane", "dog", "crane")),
        build("classification", head, ("dog", "crane")),
    )
    report = load(model, start)
    assert set(report.renamed.values()) == {"loaded: 1 of 2 classes, by their names; the others stay fresh"}
    assert not model.state_dict()["heads.classification.linear.weight"][1].any()


def test_classes_that_are_only_numbered_need_a_file_of_names() -> None:
    head = {"name": "ssd"}
    start, model = build("detection", head, ("class_0", "class_1")), build("detection", head, ("cat",))
    skipped = load(model, start).skipped
    assert len(skipped) == 12
    assert set(skipped.values()) == {
        "class_names=FILE must name the classes of the weights, which number them; stays fresh"
    }


def test_another_shape_is_not_taken_for_other_classes() -> None:
    start, model = (
        build("detection", {"name": "ssd"}, ("a", "b")),
        build("detection", {"name": "ssd", "kernel": 1}, ("b",)),
    )
    skipped = load(model, start).skipped
    name = "heads.detection.classifiers.5.weight"
    assert skipped[name] == "18 x 128 x 3 x 3 in the weights, 12 x 128 x 1 x 1 here; stays fresh"


def test_rows_of_other_anchors_are_no_rows_of_classes() -> None:
    # 3 anchors with 8 scores each have as many rows as 6 with 4.
    start = build("detection", {"name": "ssd"}, tuple("abcdefg"))
    model = build("detection", {"name": "ssd", "anchors": "uniform"}, ("a", "b", "c"))
    skipped = load(model, start).skipped
    assert skipped == {
        f"heads.detection.classifiers.0.{end}": "24 rows for 7 classes in the weights, 24 for 3 here; stays fresh"
        for end in ("weight", "bias")
    } | {
        f"heads.detection.regressors.0.{end}": f"12{rest} in the weights, 24{rest} here; stays fresh"
        for end, rest in (("weight", " x 192 x 3 x 3"), ("bias", ""))
    }


def test_the_same_classes_are_loaded_as_ever() -> None:
    start, model = (build("classification", {"name": "classifier"}, ("a", "b")) for _ in range(2))
    assert rows_by_name(model, start.class_names, start.state_dict()) == {}
