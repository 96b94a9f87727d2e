import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.frozen_graph import read
from mbv2kit.weights.graphdef import messages
from mbv2kit.weights.open import read_weights
from tests.norms import randomize_norms
from tests.weights.graphdef_writer import Anchors, Norms, write_classifier, write_detector


def random_detector(backbone: str, head: str, classes: int, width: float = 0.25, **options: Any) -> VisionModel:
    """Returns a detector in which every number has an effect."""
    v2 = {"padding": "tf_same", "shrink_last": True} if backbone == "mobilenet_v2" else {"padding": "tf_same"}
    spec = ModelSpec(
        backbone={"name": backbone, "width": width, **v2},
        heads={"detection": {"name": head, "padding": "tf_same", "extra_channels": [64, 32, 32, 16], **options}},
        class_names={"detection": tuple(f"class_{k}" for k in range(classes))},
        input=Preprocess((96, 96)),
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    for part in model.heads.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.normal_(part.bias)
    return model


def predictions(model: VisionModel, size: int) -> dict[str, NDArray[np.float32]]:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    with torch.inference_mode():
        raw = model(torch.from_numpy(image))["detection"]
        outputs = model.heads["detection"].outputs(raw, (size, size))
    return {name: tensor.numpy() for name, tensor in {**raw, **outputs}.items()}


@pytest.mark.parametrize(
    ("backbone", "head", "options", "norms", "anchors"),
    [
        ("mobilenet_v2", "ssdlite", {"scores": "sigmoid"}, "fused", "computed"),
        ("mobilenet_v2", "ssdlite", {"scores": "softmax"}, "parts", "numbers"),
        ("mobilenet_v2", "ssdlite", {"scores": "sigmoid", "anchors": "uniform"}, "folded", "left out"),
        ("mobilenet_v2", "ssd", {"scores": "sigmoid", "kernel": 1}, "folded", "computed"),
        ("mobilenet_v1", "ssd", {"scores": "sigmoid", "kernel": 1}, "fused", "left out"),
        ("mobilenet_v1", "ssdlite", {"scores": "softmax"}, "parts", "computed"),
        ("mobilenet_v2", "ssdlite", {"scores": "sigmoid", "min_scale": 0.1, "max_scale": 0.9}, "fused", "numbers"),
        ("mobilenet_v2", "ssdlite", {"scores": "sigmoid", "min_scale": 0.1, "max_scale": 0.9}, "fused", "computed"),
    ],
)
def test_a_detector_predicts_as_the_one_that_was_written(
    tmp_path: Path, backbone: str, head: str, options: dict[str, Any], norms: Norms, anchors: Anchors
) -> None:
    model = random_detector(backbone, head, 5, **options)
    path = tmp_path / "frozen.pb"
    path.write_bytes(write_detector(model, 96, norms, anchors))
    published = read(path, path.name)
    spec = published.spec
    written = {**spec.heads["detection"]}
    assert written["name"] == head
    assert written["scores"] == options["scores"]
    assert (written["score_threshold"], written["nms_iou"], written["max_detections"]) == (0.25, 0.55, 50)
    usual = "min_scale" not in options
    assert (written["anchors"] == options.get("anchors", "tf")) is usual
    assert (spec.mean, spec.std) == ((127.5,) * 3, (127.5,) * 3)
    assert spec.input == Preprocess((96, 96), "stretch", fill=128, interpolation="tf1")
    ours, theirs = predictions(published.build(), 96), predictions(model, 96)
    assert np.ptp(theirs["class_logits"]) > 1
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, atol=2e-3 if name == "class_logits" else 5e-4, err_msg=name)


def test_other_code_weights_are_multiplied_in(tmp_path: Path) -> None:
    model = random_detector("mobilenet_v2", "ssdlite", 2, scores="sigmoid")
    path = tmp_path / "frozen.pb"
    path.write_bytes(write_detector(model, 64, code_weights=(5.0, 20.0, 2.5, 4.0)))
    ours, theirs = predictions(read(path, "f").build(), 64), predictions(model, 64)
    np.testing.assert_allclose(ours["boxes"], theirs["boxes"], atol=1e-4)


def test_a_graph_that_ends_before_its_scores_has_sigmoids(tmp_path: Path) -> None:
    path = tmp_path / "frozen.pb"
    path.write_bytes(write_detector(random_detector("mobilenet_v1", "ssd", 2), 64, scored=False))
    assert read(path, "f").spec.heads["detection"]["scores"] == "sigmoid"


@pytest.mark.parametrize(("classes", "first", "count"), [(90, "person", 80), (20, "aeroplane", 20), (7, "class_0", 7)])
def test_lists_of_classes_are_known_by_their_length(tmp_path: Path, classes: int, first: str, count: int) -> None:
    model = random_detector("mobilenet_v1", "ssd", classes, kernel=1, scores="sigmoid")
    path = tmp_path / "frozen.pb"
    path.write_bytes(write_detector(model, 64))
    converted = read(path, "f").build()
    names = converted.class_names["detection"]
    assert (names[0], len(names)) == (first, count)
    ours, theirs = predictions(converted, 64)["scores"], predictions(model, 64)["scores"]
    # COCO's ids from 1 to 90 leave out ten; zebra is 24, and giraffe 25.
    columns = range(classes) if count == classes else [names.index("zebra"), names.index("giraffe")]
    if count != classes:
        np.testing.assert_allclose(ours[..., columns], theirs[..., [23, 24]], atol=1e-4)
        np.testing.assert_allclose(ours[..., [0, 79]], theirs[..., [0, 89]], atol=1e-4)
    else:
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("norms", ["fused", "parts", "folded"])
@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2"])
def test_a_classifier_predicts_as_the_one_that_was_written(tmp_path: Path, backbone: str, norms: Norms) -> None:
    spec = ModelSpec(
        backbone={"name": backbone, "width": 0.25, "padding": "tf_same"},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": tuple("abcdefg")},
        input=Preprocess((64, 64), "crop"),
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    path = tmp_path / "saved_model.pb"
    path.write_bytes(_as_saved_model(write_classifier(model, 64, norms)))
    converted = read_weights(str(tmp_path))
    assert not isinstance(converted, VisionModel)
    assert converted.spec.input.size == (64, 64)
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = (each(image)["classification"]["logits"] for each in (converted.build(), model))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def _as_saved_model(graph: bytes) -> bytes:
    saved = messages()["SavedModel"](schema_version=1)
    saved.meta_graphs.add().graph_def.ParseFromString(graph)
    content: bytes = saved.SerializeToString()
    return content


# Files that are wrong -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good() -> bytes:
    torch.manual_seed(0)
    return write_detector(random_detector("mobilenet_v2", "ssdlite", 2, scores="sigmoid"), 64)


def changed(good: bytes, change: Any) -> bytes:
    graph = messages()["GraphDef"].FromString(good)
    change(graph, {node.name: node for node in graph.node})
    content: bytes = graph.SerializeToString()
    return content


def _circle(graph: Any, nodes: Any) -> None:
    nodes["FeatureExtractor/layer_4/expand/weights/read"].input[0] = "FeatureExtractor/layer_4/add"


def _missing(graph: Any, nodes: Any) -> None:
    graph.node.remove(nodes["FeatureExtractor/layer_4/expand/weights"])


def _unknown(graph: Any, nodes: Any) -> None:
    nodes["FeatureExtractor/layer_4/expand/Relu6"].op = "Elu"


def _huge(graph: Any, nodes: Any) -> None:
    tensor = nodes["FeatureExtractor/layer_4/expand/weights"].attr[1].value.tensor
    tensor.tensor_content = b""
    tensor.tensor_shape.dim[0].size = 2**40


def _negative(graph: Any, nodes: Any) -> None:
    nodes["FeatureExtractor/layer_4/expand/weights"].attr[1].value.tensor.tensor_shape.dim[0].size = -1


def _bomb(graph: Any, nodes: Any) -> None:
    for name, sides in (("tall", (100_000, 1)), ("wide", (1, 100_000))):
        node = graph.node.add(name=name, op="Const")
        tensor = node.attr.add(key="value").value.tensor
        tensor.dtype = 1
        for side in sides:
            tensor.tensor_shape.dim.add(size=side)
    graph.node.add(name="outer", op="Mul", input=["tall", "wide"])


def _variable(graph: Any, nodes: Any) -> None:
    nodes["FeatureExtractor/layer_4/expand/weights"].op = "VariableV2"


def _not_finite(graph: Any, nodes: Any) -> None:
    tensor = nodes["FeatureExtractor/layer_4/expand/weights"].attr[1].value.tensor
    tensor.tensor_content = tensor.tensor_content[:-4] + b"\x00\x00\xc0\x7f"


def _other_anchors(graph: Any, nodes: Any) -> None:
    node = graph.node.add(name="anchors", op="Const")
    tensor = node.attr.add(key="value").value.tensor
    tensor.dtype = 1
    for side in (200, 4):
        tensor.tensor_shape.dim.add(size=side)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_circle, r"frozen\.pb: its node '.*' is part of a circle, or reads one"),
        (_missing, r"its node 'FeatureExtractor/layer_4/expand/weights/read' reads '.*expand/weights', which the file"),
        (_unknown, r"its node 'FeatureExtractor/layer_4/expand/Relu6' is of the kind Elu, which no known network has"),
        (
            _huge,
            r"its constant 'FeatureExtractor/layer_4/expand/weights' does not hold the \[1099511627776, .*\] values",
        ),
        (_negative, r"its constant 'FeatureExtractor/layer_4/expand/weights' has the shape \[-1, "),
        (_bomb, r"its node 'outer' computes more values than any known network"),
        (_variable, r"its node 'FeatureExtractor/layer_4/expand/Conv2D' has no constant weights; freeze the graph"),
        (_not_finite, r"the weights of 'FeatureExtractor/layer_4/expand/Conv2D' hold numbers that are not finite"),
        (_other_anchors, r"frozen\.pb: it holds 200 anchors, but its maps predict \d+ boxes"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_node(tmp_path: Path, good: bytes, change: Any, message: str) -> None:
    path = tmp_path / "frozen.pb"
    path.write_bytes(changed(good, change))
    with pytest.raises(UserError, match=message):
        read_weights(str(path))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(good: bytes, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.pb"
    path.write_bytes(good[: int(len(good) * share)])
    with pytest.raises(UserError, match=r"cut\.pb"):
        read_weights(str(path))


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_damage_is_a_user_error(good: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(good)
    places = st.integers(0, len(content) - 1) | st.integers(0, 3000)
    for position in data.draw(st.lists(places, min_size=1, max_size=30)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "frozen.pb"
    path.write_bytes(content)
    # Damage may hit weights; any exception but UserError fails the test.
    with suppress(UserError):
        read(path, "frozen.pb").build()


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"])
def test_a_checkpoint_without_its_graph_or_tensorflow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in ("index", "data-00000-of-00001"):
        Path(f"model.ckpt.{ending}").write_bytes(b"\0")
    with pytest.raises(UserError, match=r"model\.ckpt: model\.ckpt\.meta is missing, which holds the graph"):
        read_weights(name)
    Path("model.ckpt.meta").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"needs TensorFlow; install it with: pip install 'mbv2kit\[tensorflow\]'"):
        read_weights(name)


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_a_path_without_a_name_is_no_checkpoint(name: str) -> None:
    with pytest.raises(UserError, match=r"holds neither a model\.json"):
        read_weights(name)
