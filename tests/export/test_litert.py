from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.export.check import check, reference
from mbv2kit.export.write import open_export, write
from mbv2kit.exports import Export
from mbv2kit.model import VisionModel
from mbv2kit.network import ExportNetwork
from mbv2kit.structures import TASKS
from tests.export.models import noise, small_model

pytest.importorskip("litert_torch", reason="needs what writes .tflite files: pip install 'mbv2kit[litert]'")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from mbv2kit.export.litert import export_litert
from mbv2kit.export.litert_precision import prepare_for_rounding

SIZE = (64, 64)
LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@pytest.fixture(scope="module")
def model() -> VisionModel:
    # Padded as TensorFlow does, which adds zeros behind a map alone.
    return small_model(*TASKS, padding="tf_same")


@pytest.fixture(scope="module")
def exported(model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    folder = tmp_path_factory.mktemp("litert")
    return folder, write(ExportNetwork(model).eval(), folder, "litert", "fp32")


def operations(path: Path) -> list[tuple[str, list[Any]]]:
    """Lists the operations of a file in their order, each with the tensors that it reads."""
    content = flatbuffer_utils.read_model(path)
    (graph,) = content.subgraphs
    return [
        (flatbuffer_utils.opcode_to_name(content, each.opcodeIndex), [graph.tensors[i] for i in each.inputs if i >= 0])
        for each in graph.operators
    ]


@pytest.mark.slow
def test_the_file_answers_as_the_model_does(model: VisionModel, exported: tuple[Path, Export]) -> None:
    folder, export = exported
    assert export.batch == 1
    report = check(model, open_export(model, folder, export), export, noise(4, SIZE))
    assert report.agrees, report.findings


@pytest.mark.slow
def test_maps_keep_their_order_in_memory_and_activations_are_part_of_their_layers(
    model: VisionModel, exported: tuple[Path, Export]
) -> None:
    folder, export = exported
    counts = Counter(name for name, _ in operations(folder / export.file))
    convolutions = sum(isinstance(part, nn.Conv2d) for part in model.modules())
    assert counts["CONV_2D"] + counts["DEPTHWISE_CONV_2D"] == convolutions
    assert counts["FULLY_CONNECTED"] == 1
    assert not set(counts) & {"TRANSPOSE", "PADV2", "RELU6", "RELU", "MAXIMUM", "BATCH_MATMUL"}
    # A strided convolution of the detector that pads an even map on all sides, which LiteRT's cannot do.
    assert counts["PAD"] == 1
    first, (images,) = operations(folder / export.file)[0]
    assert (first, images.type, list(images.shape)) == ("CAST", schema.TensorType.UINT8, [1, 64, 64, 3])


@pytest.mark.slow
def test_half_floats_halve_the_file(model: VisionModel, exported: tuple[Path, Export], tmp_path: Path) -> None:
    export = write(ExportNetwork(model).eval(), tmp_path, "litert", "fp16")
    assert check(model, open_export(model, tmp_path, export), export, noise(4, SIZE)).agrees
    sizes = [(folder / each.file).stat().st_size for folder, each in (exported, (tmp_path, export))]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.slow
def test_int8_layers_read_integers_and_answers_stay_float(model: VisionModel, tmp_path: Path) -> None:
    export = write(ExportNetwork(model).eval(), tmp_path, "litert", "int8", calibration=noise(8, SIZE, seed=1))
    for name, tensors in operations(tmp_path / export.file):
        if name in LAYERS:
            assert [tensor.type for tensor in tensors[:2]] == [schema.TensorType.INT8] * 2
            channels = tensors[1].shape[3 if name == "DEPTHWISE_CONV_2D" else 0]
            assert len(tensors[1].quantization.scale) == channels
        if name in ("SOFTMAX", "EXP", "ARG_MAX", "RESIZE_BILINEAR", "SUB"):
            assert tensors[0].type == schema.TensorType.FLOAT32
    images = noise(4, SIZE)
    expected, deployed = reference(model, images, SIZE), open_export(model, tmp_path, export)
    for image, wanted in zip(images, expected.answers, strict=True):
        found = deployed.answer(image[None])
        assert {name: array.dtype for name, array in found.items()} == {
            name: array.dtype for name, array in wanted.items()
        }
        for name in ("probabilities", "boxes", "scores"):
            assert np.abs(found[name] - wanted[name]).mean() < 0.05
        assert (found["mask"] == wanted["mask"]).mean() > 0.8


@pytest.mark.slow
def test_a_file_for_two_pictures_takes_two(tmp_path: Path) -> None:
    model = small_model("classification")
    export = write(ExportNetwork(model).eval(), tmp_path, "litert", "fp32", batch=2)
    images = noise(3, SIZE)
    found = open_export(model, tmp_path, export).answer(np.stack(images))["probabilities"]
    expected = [answers["probabilities"] for answers in reference(model, images, SIZE).answers]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


def test_any_number_of_pictures_is_refused_in_one_sentence(tmp_path: Path) -> None:
    network = ExportNetwork(small_model("classification")).eval()
    with pytest.raises(UserError, match="fixed number of pictures at a time; say how many, for instance batch=1"):
        export_litert(network, tmp_path / "model.tflite", batch=None, precision="fp32", calibration=None)
    assert not list(tmp_path.iterdir())


def rounded(layer: nn.Conv2d) -> torch.Tensor:
    """Returns a layer's weights as 8 bits hold them, a scale for each channel."""
    steps = layer.weight.flatten(1).abs().amax(dim=1).view(-1, 1, 1, 1) / 127
    return (layer.weight / steps).round() * steps


def test_rounding_leaves_the_mean_of_each_channel_and_dead_channels_their_bias() -> None:
    network = ExportNetwork(small_model("classification")).eval()
    first = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
    assert first.bias is not None
    with torch.no_grad():
        first.weight[0], first.bias[0] = 1e-12, 3.0
    # Without edges in them, no picture shows the first layer its padding but at the border.
    batches = [np.full((1, *SIZE, 3), level, dtype=np.uint8) for level in (20, 200, 240)]
    prepared = prepare_for_rounding(network, batches)
    after = next(part for part in prepared.modules() if isinstance(part, nn.Conv2d))
    pixels = torch.from_numpy(np.concatenate(batches)).permute(0, 3, 1, 2) - network.mean

    def inner_means(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(pixels, weight, bias, stride=2)[:, :, 1:, 1:].mean(dim=(0, 2, 3))

    with torch.no_grad():
        assert after.bias is not None
        wanted = inner_means(first.weight, first.bias)
        plain, corrected = inner_means(rounded(first), first.bias), inner_means(rounded(after), after.bias)
        assert (plain - wanted).abs().max() > 1e-3
        torch.testing.assert_close(corrected, wanted, rtol=1e-4, atol=1e-4)
        # Inputs come in steps of 1 here; the bias must fit into 32 bits in steps of the weights' times that.
        steps = after.weight.flatten(1).abs().amax(dim=1) / 127
        assert (after.bias.abs() / steps < 2**31).all()
        assert first.bias[0] / (first.weight[0].abs().max() / 127) > 2**31
