"""Published detectors compared with the programs that they were made for."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from mbv2kit import load
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.weights import tflite
from tests.weights.overlaps import overlaps
from tests.weights.test_frozen_graph import random_detector
from tests.weights.tflite_detectors import write_detector
from tests.weights.tflite_writer import Form

PEDESTRIANS = "ssdlite_mobilenet_v2_pedestrian.pb"
OPEN_IMAGES = "ssd_mobilenet_v2_oidv4_fp16.tflite"
# Scores and boxes, on the unit square, that TensorFlow 2.21 returns for the decoded pixels of each image.
ANSWERS = json.loads((Path(__file__).parent / "pedestrian_tensorflow.json").read_text(encoding="utf-8"))


def check_pedestrians(predictor: Predictor, shared_data: Path, name: str) -> int:
    """Compares the boxes of an image with those of TensorFlow, and returns how many there are."""
    folder = shared_data / ("coco_mini/images/val2017" if name.isdigit() else "images")
    image = decode(next(folder.glob(f"{name}.*")))
    result = predictor(image)
    scale = np.tile(np.array(image.shape[1::-1]), 2)
    found = np.array([row for row in zip(result.scores, *(result.boxes / scale).T, strict=True) if row[0] >= 0.295])
    wanted = np.array(ANSWERS[name])
    assert len(wanted) <= len(found)
    for score, *box in wanted:
        shared = overlaps(np.array(box), found[:, 1:])
        best = int(shared.argmax())
        assert shared[best] >= 0.99
        assert found[best, 0] == pytest.approx(score, abs=0.005)
    assert sum(found[:, 0] >= 0.305) <= len(wanted)
    return len(wanted)


@pytest.mark.slow
def test_the_pedestrian_detector_finds_what_tensorflow_finds(shared_data: Path) -> None:
    predictor = load(shared_data / "weights" / PEDESTRIANS)
    assert predictor.preprocess.interpolation == "tf1"
    assert len(ANSWERS) == 8
    assert sum(check_pedestrians(predictor, shared_data, name) for name in ANSWERS) > 40


@pytest.mark.slow
def test_the_open_images_detector_computes_what_litert_computes(shared_data: Path) -> None:
    path = shared_data / "weights" / OPEN_IMAGES
    litert, model = Interpreter(str(path), num_threads=1), tflite.read(path, path.name).build()
    litert.allocate_tensors()
    details = {detail["name"]: detail["index"] for detail in litert.get_output_details()}
    (image_tensor,) = litert.get_input_details()
    nms = NmsOptions(score_threshold=0.05, nms_iou=0.6, max_detections=100)
    images = sorted((shared_data / "coco_mini" / "images" / "val2017").iterdir())
    assert len(images) == 64
    largest, compared = 0.0, 0
    for name in images:
        image, _ = model.preprocess(decode(name))
        litert.set_tensor(image_tensor["index"], (image[None].astype(np.float32) - 127.5) / 127.5)
        litert.invoke()
        codes, logits = (
            litert.get_tensor(details[f"raw_outputs/{key}"])[0] for key in ("box_encodings", "class_predictions")
        )
        with torch.inference_mode():
            raw = model(images_to_tensor([image]))["detection"]
        theirs = {
            "box_codes": torch.from_numpy(codes[None, :, [1, 0, 3, 2]]),
            "class_logits": torch.from_numpy(logits[None]),
            "anchors": raw["anchors"],
        }
        largest = max(largest, *(float((raw[key] - theirs[key]).abs().max()) for key in ("box_codes", "class_logits")))
        found, wanted = (model.heads["detection"].outputs(each, model.preprocess.size) for each in (raw, theirs))
        ours, expected = (
            nms(each["boxes"][0].numpy(), each["scores"][0].numpy(), (300, 300)) for each in (found, wanted)
        )
        assert sorted(ours.class_ids.tolist()) == sorted(expected.class_ids.tolist())
        # Scores that are nearly equal may change places.
        for box, class_id, score in zip(expected.boxes, expected.class_ids, expected.scores, strict=True):
            near = np.abs(ours.boxes - box).max(axis=1) <= 0.5
            assert (near & (ours.class_ids == class_id) & (np.abs(ours.scores - score) <= 1e-4)).any()
        compared += len(ours.boxes)
    assert largest <= 2e-3
    assert compared > 200


# Detectors that the tests write ---------------------------------------------------------------------------------------


def interpreter(content: bytes) -> Interpreter:
    opened = Interpreter(model_content=content, num_threads=1)
    opened.allocate_tensors()
    return opened


def run(opened: Interpreter, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    (entry,) = opened.get_input_details()
    opened.set_tensor(entry["index"], (image[None].astype(np.float32) - 127.5) / 127.5)
    opened.invoke()
    return [opened.get_tensor(each["index"])[0] for each in opened.get_output_details()]


@pytest.mark.parametrize(
    ("backbone", "head", "form", "options"),
    [
        ("mobilenet_v2", "ssdlite", "float32", {}),
        ("mobilenet_v2", "ssd", "float16", {"kernel": 1}),
        ("mobilenet_v1", "ssd", "float32", {"kernel": 1, "min_scale": 0.15, "max_scale": 0.9}),
        ("mobilenet_v1", "ssdlite", "float16", {"anchors": "uniform"}),
    ],
)
def test_a_file_that_suppresses_duplicates_finds_the_same(
    tmp_path: Path, backbone: str, head: str, form: Form, options: dict[str, Any]
) -> None:
    nms = {"score_threshold": 0.6, "nms_iou": 0.5, "max_detections": 20}
    model = random_detector(backbone, head, 4, scores="sigmoid", **options, **nms)
    path = tmp_path / "detect.tflite"
    path.write_bytes(write_detector(model, 96, form, postprocess=True))
    published = tflite.read(path, path.name)
    written = published.spec.heads["detection"]
    assert {key: written[key] for key in nms} == pytest.approx(nms)
    assert (written["scores"], written["name"]) == ("sigmoid", head)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    boxes, classes, scores, count = run(interpreter(path.read_bytes()), image)
    (prediction,) = as_trained(published.build()).predict([image])
    assert len(prediction.boxes) == int(count) == 20
    wanted = np.clip(boxes[:, [1, 0, 3, 2]], 0, 1) * 96
    same = [
        (
            (np.abs(prediction.boxes - box).max(axis=1) < 0.05)
            & (prediction.class_ids == class_id)
            & (np.abs(prediction.scores - score) < 1e-4)
        ).any()
        for box, class_id, score in zip(wanted, classes, scores, strict=True)
    ]
    # LiteRT compares boxes before it clips them at the border of the image, so it may suppress others there.
    assert np.mean(same) >= 0.9


@pytest.mark.parametrize("form", ["float32", "float16", "int8 weights"])
def test_a_file_with_raw_outputs_computes_the_same(tmp_path: Path, form: Form) -> None:
    model = random_detector("mobilenet_v2", "ssdlite", 3, scores="sigmoid")
    path = tmp_path / "raw.tflite"
    path.write_bytes(write_detector(model, 96, form))
    published = tflite.read(path, path.name)
    assert published.spec.heads["detection"]["anchors"] == "tf"
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        raw = published.build()(images_to_tensor([image]))["detection"]
    codes, logits = run(interpreter(path.read_bytes()), image)
    ours, theirs = raw["class_logits"][0].numpy(), logits
    if form == "int8 weights":
        # LiteRT rounds the maps as well, to 8 bits.
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97
    else:
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
        np.testing.assert_allclose(raw["box_codes"][0].numpy(), codes[:, [1, 0, 3, 2]], atol=2e-3)


def test_class_names_that_are_packed_into_a_detector_leave_out_the_background(tmp_path: Path) -> None:
    path = tmp_path / "raw.tflite"
    path.write_bytes(write_detector(random_detector("mobilenet_v1", "ssd", 3), 64))
    with ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "???\nant\nbee\ncat\n")
    assert tflite.read(path, path.name).spec.class_names["detection"] == ("ant", "bee", "cat")
