from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.exporting.check import check, reference
from mbv2kit.exporting.files import open_for_check, write
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS
from tests.exporting.models import noise, small_model

pytest.importorskip("litert_torch", reason="needs what writes .tflite files: pip install 'mbv2kit[litert]'")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from mbv2kit.exporting.litert import export_litert

SIZE = (64, 64)
LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@pytest.fixture(scope="module")
def model() -> VisionModel:
    # Padded as TensorFlow does, which adds zeros only at the end of a map.
    return small_model(*TASKS, padding="tf_same")


@pytest.fixture(scope="module")
def exported(model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    folder = tmp_path_factory.mktemp("litert")
    return folder, write(ExportNetwork(model).eval(), folder, "litert", "fp32")


def operations(path: Path) -> list[tuple[str, list[Any]]]:
    """Lists the operations of a file in order, each with the tensors that it reads."""
    content = flatbuffer_utils.read_model(path)
    (graph,) = content.subgraphs
    return [
        (flatbuffer_utils.opcode_to_name(content, each.opcodeIndex), [graph.tensors[i] for i in each.inputs if i >= 0])
        for each in graph.operators
    ]


@pytest.mark.slow
def test_the_file_has_the_outputs_of_the_model(model: VisionModel, exported: tuple[Path, Export]) -> None:
    folder, export = exported
    assert export.batch == 1
    report = check(model, open_for_check(model, folder, export), export, noise(4, SIZE))
    assert report.agrees, report.findings


@pytest.mark.slow
def test_maps_keep_their_memory_layout_and_activations_are_part_of_their_layers(
    model: VisionModel, exported: tuple[Path, Export]
) -> None:
    folder, export = exported
    counts = Counter(name for name, _ in operations(folder / export.file))
    convolutions = sum(isinstance(part, nn.Conv2d) for part in model.modules())
    assert counts["CONV_2D"] + counts["DEPTHWISE_CONV_2D"] == convolutions
    assert counts["FULLY_CONNECTED"] == 1
    assert not set(counts) & {"TRANSPOSE", "PADV2", "RELU6", "RELU", "MAXIMUM", "BATCH_MATMUL"}
    # A strided convolution of the detector pads an even map on all sides, which LiteRT cannot do.
    assert counts["PAD"] == 1
    first, (images,) = operations(folder / export.file)[0]
    assert (first, images.type, list(images.shape)) == ("CAST", schema.TensorType.UINT8, [1, 64, 64, 3])


@pytest.mark.slow
def test_fp16_halves_the_file(model: VisionModel, exported: tuple[Path, Export], tmp_path: Path) -> None:
    export = write(ExportNetwork(model).eval(), tmp_path, "litert", "fp16")
    assert check(model, open_for_check(model, tmp_path, export), export, noise(4, SIZE)).agrees
    sizes = [(folder / each.file).stat().st_size for folder, each in (exported, (tmp_path, export))]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.slow
def test_int8_layers_read_integers_and_outputs_stay_floats(model: VisionModel, tmp_path: Path) -> None:
    export = write(ExportNetwork(model).eval(), tmp_path, "litert", "int8", calibration=noise(8, SIZE, seed=1))
    for name, tensors in operations(tmp_path / export.file):
        if name in LAYERS:
            assert [tensor.type for tensor in tensors[:2]] == [schema.TensorType.INT8] * 2
            channels = tensors[1].shape[3 if name == "DEPTHWISE_CONV_2D" else 0]
            assert len(tensors[1].quantization.scale) == channels
        if name in ("SOFTMAX", "EXP", "ARG_MAX", "RESIZE_BILINEAR", "SUB"):
            assert tensors[0].type == schema.TensorType.FLOAT32
    images = noise(4, SIZE)
    expected, deployed = reference(model, images), open_for_check(model, tmp_path, export)
    for image, wanted in zip(images, expected.outputs, strict=True):
        found = deployed.outputs(image[None])
        assert {name: array.dtype for name, array in found.items()} == {
            name: array.dtype for name, array in wanted.items()
        }
        for name in ("probabilities", "boxes", "scores"):
            assert np.abs(found[name] - wanted[name]).mean() < 0.05
        assert (found["mask"] == wanted["mask"]).mean() > 0.8


@pytest.mark.slow
def test_a_file_for_two_images_takes_two(tmp_path: Path) -> None:
    model = small_model("classification")
    export = write(ExportNetwork(model).eval(), tmp_path, "litert", "fp32", batch=2)
    images = noise(3, SIZE)
    found = open_for_check(model, tmp_path, export).outputs(np.stack(images))["probabilities"]
    expected = [outputs["probabilities"] for outputs in reference(model, images).outputs]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


def test_a_missing_batch_size_is_refused(tmp_path: Path) -> None:
    network = ExportNetwork(small_model("classification")).eval()
    with pytest.raises(UserError, match="fixed batch size; give batch=1"):
        export_litert(network, tmp_path / "model.tflite", batch=None, precision="fp32", calibration=None)
    assert not list(tmp_path.iterdir())
