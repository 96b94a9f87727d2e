import logging
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.structures import TASKS
from tests.exporting.models import noise, small_model

ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")

from mbv2kit.exporting.openvino import export_openvino  # noqa: E402 - needs packages that may be missing

SIZE = (64, 64)


@pytest.fixture(scope="module")
def network() -> ExportNetwork:
    return ExportNetwork(small_model(*TASKS, depth=0.34)).eval()


@pytest.fixture(scope="module")
def exact(network: ExportNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in float32, for any number of images."""
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    export_openvino(network, path, batch=None, precision="fp32", calibration=None)
    return path


@pytest.fixture(scope="module")
def quantized(network: ExportNetwork, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The network in int8, for four images at a time, and what was printed meanwhile."""
    path = tmp_path_factory.mktemp("openvino") / "model_int8.xml"
    with redirect_stdout(StringIO()) as printed, redirect_stderr(printed):
        export_openvino(network, path, batch=4, precision="int8", calibration=noise(16, SIZE, seed=1))
    return path, printed.getvalue()


def outputs_of(path: Path, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([images])
    return {output.any_name: results[output] for output in compiled.outputs}


def outputs_of_torch(network: ExportNetwork, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))
    return {name: each.numpy() for name, each in zip(network.output_names, outputs, strict=True)}


def input_of(path: Path) -> tuple[str, Any, Any]:
    (images,) = ov.Core().read_model(path).inputs
    return images.any_name, images.element_type, images.partial_shape


def precision_in(path: Path) -> str:
    return str(ov.Core().read_model(path).get_rt_info(["mbv2kit", "precision"]).value)


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_are_those_of_torch_at_any_batch_size(network: ExportNetwork, exact: Path, count: int) -> None:
    images = np.stack(noise(count, SIZE))
    expected = outputs_of_torch(network, images)
    found = outputs_of(exact, images)
    assert list(found) == list(expected)
    for name in ("probabilities", "boxes", "scores"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    assert (found["mask"] == expected["mask"]).mean() > 0.999
    assert found["mask"].dtype == np.uint8
    assert precision_in(exact) == "fp32"


def test_the_input_is_uint8_images(exact: Path) -> None:
    assert input_of(exact) == ("images", ov.Type.u8, ov.PartialShape([-1, *SIZE, 3]))


def test_fp16_halves_the_file(tmp_path: Path) -> None:
    network = ExportNetwork(small_model("classification", depth=0.34)).eval()
    path = tmp_path / "model_fp16.xml"
    export_openvino(network, path, batch=None, precision="fp16", calibration=None)
    numbers = sum(parameter.numel() for parameter in network.parameters())
    assert path.with_suffix(".bin").stat().st_size == pytest.approx(2 * numbers, rel=0.02)
    assert precision_in(path) == "fp16"
    images = np.stack(noise(2, SIZE))
    found, expected = outputs_of(path, images), outputs_of_torch(network, images)
    difference = np.abs(found["probabilities"] - expected["probabilities"]).max()
    assert 1e-6 < difference < 5e-3


@pytest.mark.slow
def test_a_fixed_batch_size_is_kept(quantized: tuple[Path, str]) -> None:
    assert input_of(quantized[0]) == ("images", ov.Type.u8, ov.PartialShape([4, *SIZE, 3]))


@pytest.mark.slow
def test_int8_changes_the_outputs_little(network: ExportNetwork, quantized: tuple[Path, str]) -> None:
    path, _ = quantized
    images = np.stack(noise(4, SIZE))
    expected, found = outputs_of_torch(network, images), outputs_of(path, images)
    for name in ("probabilities", "scores"):
        assert 0 < np.abs(found[name] - expected[name]).max() < 0.1, name
    assert np.abs(found["boxes"] - expected["boxes"]).max() < 1 / 64
    assert (found["mask"] == expected["mask"]).mean() > 0.9
    numbers = sum(parameter.numel() for parameter in network.parameters())
    # Besides a byte for each weight there are biases and scales of narrow layers, and the anchors.
    assert numbers < path.with_suffix(".bin").stat().st_size < 1.3 * numbers
    assert precision_in(path) == "int8"


def sources(node: Any) -> Iterator[Any]:
    """Yields the nodes that a node is computed from, back to the nearest convolutions."""
    for value in node.input_values():
        source = value.get_node()
        yield source
        if source.get_type_name() not in ("Convolution", "GroupConvolution"):
            yield from sources(source)


@pytest.mark.slow
def test_every_layer_is_quantized_and_nothing_after_the_last_ones(quantized: tuple[Path, str]) -> None:
    model = ov.Core().read_model(quantized[0])
    layers = [node for node in model.get_ops() if node.get_type_name() in ("Convolution", "GroupConvolution")]
    assert len(layers) > 40
    for layer in layers:
        # Branches are quantized before they are concatenated.
        assert layer.input_value(0).get_node().get_type_name() in ("FakeQuantize", "Concat"), layer.get_friendly_name()
        weights = {node.get_element_type() for node in sources(layer.input_value(1).get_node())}
        assert ov.Type.i8 in weights, layer.get_friendly_name()
    for result in model.get_results():
        kinds = [node.get_type_name() for node in sources(result)]
        # Probabilities come from a linear layer, not a convolution.
        assert ("FakeQuantize" in kinds) == (result.input_value(0).any_name == "probabilities")


@pytest.mark.slow
def test_nothing_is_printed_and_the_log_goes_on(quantized: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    assert quantized[1] == ""
    logging.getLogger("mbv2kit").warning("heard")
    assert caplog.messages == ["heard"]
