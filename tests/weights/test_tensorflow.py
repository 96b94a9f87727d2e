"""Graphs and checkpoints compared with TensorFlow, which `make test-tensorflow` installs; skipped without it."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbv2kit import load
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.weights.frozen_graph import read
from mbv2kit.weights.open import read_weights
from tests.norms import randomize_norms
from tests.weights.graphdef_writer import Norms, write_classifier, write_detector
from tests.weights.overlaps import overlaps
from tests.weights.tensorflow_runner import run_graph, start
from tests.weights.test_frozen_graph import random_detector

pytestmark = pytest.mark.skipif(find_spec("tensorflow") is None, reason="needs TensorFlow; run make test-tensorflow")


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
    names = ("concat", "Postprocessor/convert_scores")
    ((codes, scores),) = run_graph(path, "image_tensor", [image], names)
    pixels, _ = model.preprocess(image)
    with torch.inference_mode():
        raw = model(images_to_tensor([pixels]))["detection"]
    np.testing.assert_allclose(raw["box_codes"][0].numpy(), codes[:, [1, 0, 3, 2]], atol=2e-3)
    np.testing.assert_allclose(raw["class_logits"][0].sigmoid().numpy(), scores, atol=1e-4)


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
    ((theirs,),) = run_graph(path, "input", [image / np.float32(127.5) - 1], ("Predictions/Softmax",))
    with torch.inference_mode():
        logits = read(path, path.name).build()(images_to_tensor([image]))["classification"]["logits"]
    np.testing.assert_allclose(logits[0].softmax(dim=0).numpy(), theirs, atol=1e-4)


def test_a_checkpoint_holds_the_same_network_as_its_frozen_graph(tmp_path: Path) -> None:
    content = write_detector(random_detector("mobilenet_v2", "ssdlite", 2, scores="sigmoid"), 64)
    (tmp_path / "frozen.pb").write_bytes(content)
    start("checkpoint", str(tmp_path / "frozen.pb"), str(tmp_path / "model.ckpt"))
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
    images = [decode(name) for name in sorted((shared_data / "coco_mini" / "images" / "val2017").iterdir())]
    answers = run_graph(path, "image_tensor", images, ("detection_boxes", "detection_scores"))
    predictor = load(path)
    compared = 0
    for image, (boxes, scores) in zip(images, answers, strict=True):
        result = predictor(image)
        found = result.boxes / np.tile(np.array(image.shape[1::-1]), 2)
        for (top, left, bottom, right), score in zip(boxes[scores >= 0.3], scores[scores >= 0.3], strict=True):
            shared = overlaps(np.array([left, top, right, bottom], dtype=np.float64), found.astype(np.float64))
            best = int(shared.argmax())
            assert shared[best] >= 0.99
            assert result.scores[best] == pytest.approx(score, abs=0.005)
            compared += 1
    assert compared > 60
