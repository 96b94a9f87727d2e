from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbv2kit.heads.ssd import SSD
from mbv2kit.lab.benchmark.competitors import published_detectors
from mbv2kit.models.vision_model import VisionModel
from tests.weights import graphdef_writer, tflite_detectors
from tests.weights.test_frozen_graph import random_detector

CLASSES = 5


@pytest.fixture
def detector() -> VisionModel:
    return random_detector("mobilenet_v2", "ssdlite", CLASSES, scores="sigmoid")


def anchors(detector: VisionModel) -> list[int]:
    head = detector.heads["detection"]
    assert isinstance(head, SSD)
    return [len(cell) for cell in head.shapes]


def test_opencv_computes_the_maps_of_all_predictors(tmp_path: Path, detector: VisionModel) -> None:
    path = tmp_path / "frozen.pb"
    path.write_bytes(graphdef_writer.write_detector(detector, 300))
    workload = published_detectors.opencv(1, str(path))
    outputs: Any = workload.calls["network"]()
    channels = sorted(output.shape[1] for output in outputs)
    assert channels == sorted(count * values for count in anchors(detector) for values in (4, CLASSES + 1))
    assert all(np.isfinite(output).all() for output in outputs)


def test_litert_computes_codes_and_logits(tmp_path: Path, detector: VisionModel) -> None:
    path = tmp_path / "detect.tflite"
    path.write_bytes(tflite_detectors.write_detector(detector, 96))
    codes, logits = sorted(published_detectors.litert(1, str(path)).calls["network"](), key=lambda each: each.shape[2])  # type: ignore[call-overload]
    assert codes.shape[2] == 4
    assert logits.shape == (1, codes.shape[1], CLASSES + 1)
