from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.exporting.files import open_for_check, write
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.start import is_folded
from mbv2kit.weights.open import read_weights
from mbv2kit.weights.published import Published
from tests.weights.pytorch_networks import PROJECTS, Weights, mb2_ssd_lite

# Fewer than the boxes of a cell, so that a test notices rows in another order.
CLASSES = 4


@cache
def image(side: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, side, side), dtype=np.uint8))


@cache
@torch.no_grad()
def drawn(
    project: str, classes: int = CLASSES
) -> tuple[Mapping[str, Tensor], NDArray[np.float64], NDArray[np.float64]]:
    """Returns random tensors of a project, and the boxes and scores that it predicts with them."""
    torch.manual_seed(0)
    theirs = PROJECTS[project]
    weights = Weights(theirs.eps)
    boxes, scores = theirs.predict(weights, image(theirs.side), classes)
    return weights.tensors, boxes, scores


def read(tmp_path: Path, content: Any) -> Published:
    path = tmp_path / "detector.pth"
    torch.save(content, path)
    published = read_weights(str(path))
    assert not isinstance(published, VisionModel)
    return published


def predict(model: VisionModel, side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with torch.inference_mode():
        head = model.heads["detection"]
        outputs = head.outputs(model(image(side))["detection"], (side, side))
    return outputs["boxes"][0].numpy(), outputs["scores"][0].numpy()


@pytest.mark.parametrize("project", PROJECTS)
def test_a_detector_predicts_what_its_project_predicts(tmp_path: Path, project: str) -> None:
    tensors, boxes, scores = drawn(project)
    assert np.ptp(scores) > 0.3
    published = read(tmp_path, tensors)
    assert published.left_out == ()
    ours, our_scores = predict(published.build(), PROJECTS[project].side)
    np.testing.assert_allclose(ours, boxes, rtol=0, atol=1e-4)
    np.testing.assert_allclose(our_scores, scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("project", "nms"),
    [
        ("mb2-ssd-lite", (0.01, 0.45, 200)),
        ("mb1-ssd", (0.01, 0.45, 200)),
        ("lufficc", (0.01, 0.45, 100)),
        ("mmdetection", (0.02, 0.45, 200)),
    ],
)
def test_what_the_project_does_belongs_to_the_model(
    tmp_path: Path, project: str, nms: tuple[float, float, int]
) -> None:
    theirs = PROJECTS[project]
    spec = read(tmp_path, drawn(project)[0]).spec
    head = spec.heads["detection"]
    assert (head["score_threshold"], head["nms_iou"], head["max_detections"]) == nms
    assert spec.input == Preprocess((theirs.side, theirs.side), "stretch", fill=round(sum(theirs.mean) / 3))
    assert (spec.mean, spec.std) == (tuple(theirs.mean), tuple(theirs.std))
    assert spec.backbone["norm_eps"] == head["norm_eps"] == theirs.eps
    assert spec.backbone["width"] == 1.0
    assert spec.class_names == {"detection": ("class_0", "class_1", "class_2", "class_3")}


def test_the_model_folder_predicts_the_same(tmp_path: Path) -> None:
    tensors, boxes, scores = drawn("mb2-ssd-lite")
    read(tmp_path, tensors).build().save(tmp_path / "model")
    ours, our_scores = predict(VisionModel.load(tmp_path / "model"), 300)
    np.testing.assert_allclose(ours, boxes, rtol=0, atol=1e-4)
    np.testing.assert_allclose(our_scores, scores, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_an_exported_file_predicts_the_same(tmp_path: Path) -> None:
    tensors, boxes, scores = drawn("mb2-ssd-lite")
    model = read(tmp_path, tensors).build()
    export = write(ExportNetwork(model).eval(), tmp_path, "onnx", "fp32")
    outputs = open_for_check(model, tmp_path, export).outputs(image(300).permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(outputs["boxes"][0], boxes, rtol=0, atol=1e-4)
    np.testing.assert_allclose(outputs["scores"][0], scores, rtol=0, atol=1e-4)


def test_the_width_is_that_of_the_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = Weights(1e-5)
    with torch.no_grad():
        mb2_ssd_lite(weights, torch.zeros(1, 3, 64, 64), 2, width=0.25)
    published = read(tmp_path, weights.tensors)
    assert published.spec.backbone["width"] == 0.25
    published.build()


def test_layers_without_a_norm_have_one_that_training_unfolds(tmp_path: Path) -> None:
    model = read(tmp_path, drawn("mb1-ssd")[0]).build()
    norms = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    assert [name for name, norm in norms.items() if is_folded(norm)] == [
        f"heads.detection.extras.{extra}.{part}.norm" for extra in range(4) for part in range(2)
    ]


# Names of classes ----------------------------------------------------------------------------------------------------


def with_classes(project: str, columns: int) -> dict[str, Tensor]:
    """Returns the tensors of a project with zeros for scores of a number of columns."""
    tensors = dict(drawn(project)[0])
    for name, tensor in tensors.items():
        if len(tensor.shape) in (1, 4) and tensor.shape[0] == 6 * (CLASSES + 1):
            tensors[name] = torch.zeros(6 * columns, *tensor.shape[1:])
    return tensors


@pytest.mark.parametrize(
    ("project", "columns", "first", "last"),
    [
        ("lufficc", 21, "aeroplane", "tvmonitor"),
        ("mb1-ssd", 21, "aeroplane", "tvmonitor"),
        ("mmdetection", 81, "person", "toothbrush"),
        ("mmdetection", 2, "class_0", "class_0"),
    ],
)
def test_classes_are_known_by_their_number(tmp_path: Path, project: str, columns: int, first: str, last: str) -> None:
    published = read(tmp_path, with_classes(project, columns))
    names = published.spec.class_names["detection"]
    assert (len(names), names[0], names[-1].replace(" ", "")) == (columns - 1, first, last)
    published.build()


NAMES = ("cat", "dog", "emu", "owl")


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": NAMES, "mmdet_version": "2.14.0", "env_info": "..."},
        {"dataset_meta": {"classes": list(NAMES), "palette": [(1, 2, 3)]}, "epoch": 3},
        {"dataset_meta": {"CLASSES": NAMES}},
    ],
)
def test_a_checkpoint_of_mmdetection_names_its_classes(tmp_path: Path, meta: dict[str, Any]) -> None:
    published = read(tmp_path, {"meta": meta, "state_dict": drawn("mmdetection")[0], "optimizer": {"state": {}}})
    assert published.spec.class_names["detection"] == NAMES


@pytest.mark.parametrize(
    "meta",
    [
        "a note",
        {},
        {"CLASSES": "abcd"},
        {"CLASSES": ["cat", 3, "emu", "owl"]},
        {"CLASSES": ("cat",), "dataset_meta": 7},
    ],
)
def test_names_that_do_not_fit_are_not_used(tmp_path: Path, meta: Any) -> None:
    published = read(tmp_path, {"meta": meta, "state_dict": drawn("mmdetection")[0]})
    assert published.spec.class_names["detection"][0] == "class_0"


# Files that are wrong -------------------------------------------------------------------------------------------------


def without(name: str, tensors: dict[str, Tensor]) -> None:
    del tensors[name]


def cut(name: str, tensors: dict[str, Tensor]) -> None:
    tensors[name] = tensors[name][:-1]


def flat(name: str, tensors: dict[str, Tensor]) -> None:
    tensors[name] = torch.tensor(1.0)


def empty(name: str, tensors: dict[str, Tensor]) -> None:
    tensors[name] = torch.zeros(5, 0)


def more(name: str, tensors: dict[str, Tensor]) -> None:
    tensors[name] = torch.zeros(3)


@pytest.mark.parametrize(
    ("project", "change", "name", "message"),
    [
        ("mb2-ssd-lite", without, "extras.2.conv.4.weight", r"lacks 'extras\.2\.conv\.4\.weight' of pytorch-ssd's mb2"),
        (
            "mb1-ssd",
            without,
            "base_net.9.3.weight",
            r"lacks 'base_net\.9\.3\.weight' of pytorch-ssd's mb1-ssd; of such",
        ),
        (
            "mb1-ssd",
            more,
            "source_layer_add_ons.0.weight",
            r"holds 'source_layer_add_ons\.0\.weight', which .*'s mb1-ssd",
        ),
        ("lufficc", without, "backbone.extras.0.conv.3.running_var", r"has no values for 'heads\.detection\.extras\.0"),
        ("mb2-ssd-lite", cut, "classification_headers.0.3.weight", r"has 29 scores in 'class.*', expected 6 for the"),
        (
            "mmdetection",
            flat,
            "bbox_head.cls_convs.0.1.weight",
            r"has 0 scores in 'bbox_head\.cls_convs\.0\.1\.weight'",
        ),
        (
            "mmdetection",
            cut,
            "bbox_head.cls_convs.3.1.bias",
            r"has values of shape \(29,\) for 'heads\.\S+', which must be",
        ),
        (
            "mmdetection",
            empty,
            "bbox_head.cls_convs.3.1.weight",
            r"has values of shape \(5, 0\) for 'heads\.\S+', which must be",
        ),
        (
            "mmdetection",
            flat,
            "bbox_head.cls_convs.3.1.bias",
            r"has values of shape \(\) for 'heads\.\S+', which must be",
        ),
        (
            "lufficc",
            cut,
            "box_head.predictor.reg_headers.1.conv.0.bias",
            r"has values of shape \(1279,\) for '\S+', which must be",
        ),
        ("mb1-ssd", cut, "extras.1.2.bias", r"has values of shape \(255,\) for '\S+', which must be \(256,\)"),
        (
            "mb2-ssd-lite",
            flat,
            "base_net.4.conv.0.weight",
            r"has values of shape \(\) for 'backbone\.\S+', which must be",
        ),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_name(
    tmp_path: Path, project: str, change: Callable[[str, dict[str, Tensor]], None], name: str, message: str
) -> None:
    tensors = dict(drawn(project)[0])
    partial(change, name)(tensors)
    with pytest.raises(UserError, match=rf"^detector\.pth {message}"):
        read(tmp_path, tensors).build()


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("classification_headers.0.weight", "pytorch-ssd's mb2-ssd-lite and pytorch-ssd's mb1-ssd"),
        ("box_head.predictor.cls_headers.0.weight", r"lufficc/SSD's mobilenet_v2_ssd320"),
        ("bbox_head.retina_cls.weight", "mmdetection's ssdlite_mobilenetv2"),
    ],
)
def test_other_detectors_of_a_project_are_told_what_can_be_read(tmp_path: Path, name: str, known: str) -> None:
    with pytest.raises(UserError, match=rf"lacks '.*; of such networks only {known} can be read\.$"):
        read(tmp_path, {name: torch.zeros(2, 2)})
