from dataclasses import replace
from typing import Any

import pytest

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task
from mbv2kit.training.outlook import tell_short_run
from mbv2kit.training.start import load_weights

WARNING = "This run takes {} steps of 8 images, but a head for detection that starts fresh may find next to nothing"


def detector(head: str = "ssdlite", **options: Any) -> VisionModel:
    return VisionModel(
        ModelSpec(
            backbone={"name": "mobilenet_v2", "width": 0.35},
            heads={"detection": {"name": head, **options}},
            class_names={"detection": ("cat", "dog")},
            input=Preprocess((96, 96)),
        )
    )


@pytest.mark.parametrize("head", ["ssdlite", "yolo_v2"])
def test_too_few_steps_for_a_fresh_head_are_told(caplog: pytest.LogCaptureFixture, head: str) -> None:
    model = detector(head)
    fewest = model.heads["detection"].fewest_steps
    tell_short_run(model, "detection", (), fewest, 8)
    assert caplog.text == ""
    tell_short_run(model, "detection", (), fewest - 1, 8)
    assert WARNING.format(fewest - 1) in caplog.text


def test_a_head_that_comes_with_the_weights_may_train_as_briefly_as_it_likes(caplog: pytest.LogCaptureFixture) -> None:
    model = detector()
    tell_short_run(model, "detection", load_weights(model, detector(), "theirs").loaded, 1, 8)
    assert caplog.text == ""
    # Six anchors in every cell of the first map instead of three: only its predictors start fresh.
    model = detector(anchors="uniform")
    tell_short_run(model, "detection", load_weights(model, detector(), "theirs").loaded, 1, 8)
    assert caplog.text == ""
    model = detector("ssd")
    tell_short_run(model, "detection", load_weights(model, detector(), "theirs").loaded, 1, 8)
    assert WARNING.format(1) in caplog.text


def test_a_head_whose_boxes_start_fresh_is_told_though_its_maps_come_with_the_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = detector()
    tell_short_run(model, "detection", load_weights(model, detector("ssd"), "theirs").loaded, 1, 8)
    assert WARNING.format(1) in caplog.text


@pytest.mark.parametrize(("task", "head"), [("classification", "classifier"), ("segmentation", "deeplab_v3")])
def test_heads_that_learn_in_a_few_steps_are_not_warned_of(
    caplog: pytest.LogCaptureFixture, task: Task, head: str
) -> None:
    spec = replace(detector().spec, heads={task: {"name": head}}, class_names={task: ("a", "b")})
    model = VisionModel(spec)
    tell_short_run(model, task, (), 1, 8)
    assert caplog.text == ""
