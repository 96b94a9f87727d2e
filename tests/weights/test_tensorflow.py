"""Graphs and checkpoints compared with TensorFlow, which `make test-tensorflow` installs; skipped without it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mbv2kit import load
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.weights.frozen_graph import read
from mbv2kit.weights.graphdef import messages
from mbv2kit.weights.open import read_weights
from tests.norms import randomize_norms
from tests.weights.graphdef_writer import Norms, write_classifier, write_detector
from tests.weights.overlaps import overlaps
from tests.weights.test_frozen_graph import random_detector

tensorflow: Any = pytest.importorskip("tensorflow", reason="needs TensorFlow; run make test-tensorflow")
tf = tensorflow.compat.v1

Run = Callable[[NDArray[Any]], list[NDArray[np.float32]]]


def opened(content: bytes, image: str, outputs: Sequence[str]) -> Run:
    """Returns a function that runs a frozen graph in TensorFlow."""
    graph_def, graph = tf.GraphDef(), tensorflow.Graph()
    graph_def.ParseFromString(content)
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    session = tf.Session(graph=graph)
    return lambda pixels: session.run([f"{name}:0" for name in outputs], {f"{image}:0": pixels[None]})


@pytest.mark.parametrize("norms", ["fused", "parts", "folded"])
@pytest.mark.parametrize(
    ("backbone", "head", "options"),
    [
        ("mobilenet_v2", "ssdlite", {}),
        ("mobilenet_v2", "ssd", {"kernel": 1}),
        ("mobilenet_v1", "ssd", {"kernel": 3}),
    ],
)
def test_a_detector_computes_what_tensorflow_computes(
    tmp_path: Path, backbone: str, head: str, options: dict[str, Any], norms: Norms
) -> None:
    path = tmp_path / "frozen.pb"
    path.write_bytes(write_detector(random_detector(backbone, head, 3, scores="sigmoid", **options), 96, norms))
    model = read(path, path.name).build()
    image = np.random.default_rng(0).integers(0, 256, (130, 75, 3), dtype=np.uint8)
    codes, scores = opened(path.read_bytes(), "image_tensor", ("concat", "Postprocessor/convert_scores"))(image)
    pixels, _ = model.preprocess(image)
    with torch.inference_mode():
        raw = model(images_to_tensor([pixels]))["detection"]
    np.testing.assert_allclose(raw["box_codes"][0].numpy(), codes[0][:, [1, 0, 3, 2]], atol=2e-3)
    np.testing.assert_allclose(raw["class_logits"][0].sigmoid().numpy(), scores[0], atol=1e-4)


def random_classifier(backbone: str) -> VisionModel:
    spec = ModelSpec(
        backbone={"name": backbone, "width": 0.25, "padding": "tf_same"},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": tuple("abcde")},
        input=Preprocess((64, 64), "crop"),
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    return model


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2"])
def test_a_classifier_computes_what_tensorflow_computes(tmp_path: Path, backbone: str) -> None:
    path = tmp_path / "frozen.pb"
    path.write_bytes(write_classifier(random_classifier(backbone), 64))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (theirs,) = opened(path.read_bytes(), "input", ("Predictions/Softmax",))(image / np.float32(127.5) - 1)
    with torch.inference_mode():
        logits = read(path, path.name).build()(images_to_tensor([image]))["classification"]["logits"]
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), theirs, atol=1e-4)


def write_checkpoint(content: bytes, prefix: Path) -> None:
    """Writes a frozen graph as a checkpoint, with variables for its weights."""
    frozen, graph = messages()["GraphDef"].FromString(content), tensorflow.Graph()
    weights = {node.name: node for node in frozen.node if node.op == "Const" and node.name.endswith("/weights")}
    rest = messages()["GraphDef"]()
    rest.node.extend(node for node in frozen.node if node.name not in weights)
    with graph.as_default(), tf.Session(graph=graph) as session:
        variables = {}
        for name, node in weights.items():
            tensor = node.attr[1].value.tensor
            shape = [dimension.size for dimension in tensor.tensor_shape.dim]
            value = np.frombuffer(tensor.tensor_content, dtype=np.float32).reshape(shape)
            with tf.variable_scope("", use_resource=False):
                variables[f"{name}:0"] = tf.get_variable(name, initializer=value)
        graph_def = tf.GraphDef()
        graph_def.ParseFromString(rest.SerializeToString())
        tf.import_graph_def(graph_def, input_map=variables, name="")
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(prefix))


def test_a_checkpoint_holds_the_same_network_as_its_frozen_graph(tmp_path: Path) -> None:
    content = write_detector(random_detector("mobilenet_v2", "ssdlite", 2, scores="sigmoid"), 64)
    (tmp_path / "frozen.pb").write_bytes(content)
    write_checkpoint(content, tmp_path / "model.ckpt")
    frozen = read(tmp_path / "frozen.pb", "f")
    for name in ("model.ckpt", "model.ckpt.index", "model.ckpt.meta", "model.ckpt.data-00000-of-00001"):
        found = read_weights(str(tmp_path / name))
        assert not isinstance(found, VisionModel)
        assert found.spec.heads == frozen.spec.heads
        assert found.tensors.keys() == frozen.tensors.keys()
        assert all(torch.equal(found.tensors[key], value) for key, value in frozen.tensors.items())
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.ckpt is damaged or incomplete"):
        read_weights(str(tmp_path / "model.ckpt"))
    (tmp_path / "model.ckpt.meta").unlink()
    with pytest.raises(UserError, match=r"model\.ckpt\.meta is missing, which holds the graph"):
        read_weights(str(tmp_path / "model.ckpt"))


def test_the_pedestrian_detector_finds_what_tensorflow_finds(shared_data: Path) -> None:
    path = shared_data / "weights" / "ssdlite_mobilenet_v2_pedestrian.pb"
    run = opened(path.read_bytes(), "image_tensor", ("detection_boxes", "detection_scores"))
    predictor = load(path)
    compared = 0
    for name in sorted((shared_data / "coco_mini" / "images" / "val2017").iterdir()):
        image = decode(name)
        boxes, scores = (values[0] for values in run(image))
        result = predictor(image)
        found = result.boxes / np.tile(np.array(image.shape[1::-1]), 2)
        for (top, left, bottom, right), score in zip(boxes[scores >= 0.3], scores[scores >= 0.3], strict=True):
            shared = overlaps(np.array([left, top, right, bottom], dtype=np.float64), found.astype(np.float64))
            best = int(shared.argmax())
            assert shared[best] >= 0.99
            assert result.scores[best] == pytest.approx(score, abs=0.005)
            compared += 1
    assert compared > 60
