"""Predictors of SSD follow their feature maps: a map more or less leaves what the others predict."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.class_rows import rows_by_name
from mbv2kit.weights.partial_loading import LoadReport, load_tensors
from mbv2kit.weights.predictor_maps import tensors_by_map

TWO, THREE = ["layer_15_expansion", "layer_19"], ["layer_8_expansion", "layer_15_expansion", "layer_19"]
# The map of stride 8 has 8 x 8 cells in an input of 64 x 64, each with 6 anchors.
FINEST = 8 * 8 * 6


def detector(head: str, maps: list[str], names: tuple[str, ...] = ("cat", "dog"), **options: Any) -> VisionModel:
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={"detection": {"name": head, "maps": maps, "anchors": "uniform", **options}},
        class_names={"detection": names},
        input=Preprocess((64, 64), "stretch"),
    )
    return VisionModel(spec).eval()


@torch.no_grad()
def raw(model: VisionModel) -> dict[str, Tensor]:
    image = torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64).remainder(251).to(torch.uint8)
    found: dict[str, Tensor] = model(image)["detection"]
    return found


def load(model: VisionModel, start: VisionModel) -> LoadReport:
    tensors = tensors_by_map(model, start)
    return load_tensors(model, tensors, rows_by_name(model, start.class_names, tensors))


@pytest.mark.parametrize("head", ["ssd", "ssdlite"])
def test_a_further_map_leaves_what_the_others_predict(head: str) -> None:
    start, model = detector(head, TWO), detector(head, THREE)
    report = load(model, start)
    assert not report.skipped
    assert {name.split(".")[2:4][1] for name in report.missing} == {"0"}
    for key in ("class_logits", "box_codes"):
        torch.testing.assert_close(raw(model)[key][:, FINEST:], raw(start)[key])


@pytest.mark.parametrize("head", ["ssd", "ssdlite"])
def test_a_map_that_is_left_out_leaves_what_the_others_predict(head: str) -> None:
    start, model = detector(head, THREE), detector(head, TWO)
    report = load(model, start)
    assert not report.missing
    assert {name.split(".")[3] for name in report.skipped} == {"layer_8_expansion"}
    assert set(report.skipped.values()) == {"this model has no such part"}
    for key in ("class_logits", "box_codes"):
        torch.testing.assert_close(raw(model)[key], raw(start)[key][:, FINEST:])


def test_classes_follow_their_names_on_moved_maps() -> None:
    start, model = detector("ssd", TWO), detector("ssd", THREE, ("dog", "bird", "cat"))
    load(model, start)
    # The background comes first.
    found = raw(model)["class_logits"][:, FINEST:]
    torch.testing.assert_close(found[..., [0, 3, 1]], raw(start)["class_logits"])


def test_the_same_maps_are_named_as_ever() -> None:
    start, model = detector("ssd", THREE), detector("ssdlite", THREE)
    assert list(tensors_by_map(model, start)) == list(start.state_dict())
