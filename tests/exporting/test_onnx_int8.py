from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mbv2kit.exporting.onnx import export_onnx
from mbv2kit.exporting.onnx_int8 import quantize_onnx
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS
from tests.exporting.models import noise, small_model

SIZE = (64, 64)


class Pair(NamedTuple):
    """A network in float32, and in int8."""

    exact: Path
    int8: Path


def export_pair(model: VisionModel, folder: Path, batch: int | None) -> Pair:
    pair = Pair(folder / "exact.onnx", folder / "int8.onnx")
    export_onnx(ExportNetwork(model).eval(), pair.exact, batch=batch)
    # 15 images do not fill the last batch of two.
    quantize_onnx(pair.exact, pair.int8, noise(15, SIZE))
    return pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """All tasks, a mean color and any number of images."""
    return export_pair(small_model(*TASKS), tmp_path_factory.mktemp("color"), None)


@pytest.fixture(scope="module")
def gray_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One task, a gray mean and two images at a time."""
    model = small_model("classification")
    gray = VisionModel(replace(model.spec, mean=(127.5, 127.5, 127.5))).eval()
    gray.load_state_dict(model.state_dict())
    return export_pair(gray, tmp_path_factory.mktemp("gray"), 2)


def outputs(path: Path, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def makers(model: ModelProto) -> dict[str, NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def test_int8_has_nearly_the_outputs_of_floats(pair: Pair) -> None:
    images = np.stack(noise(5, SIZE, seed=1))
    exact, int8 = (outputs(path, images) for path in pair)
    assert list(exact) == list(int8) == ["probabilities", "boxes", "scores", "mask"]
    for name in ("probabilities", "boxes", "scores"):
        assert int8[name].dtype == np.float32
        error = np.linalg.norm(int8[name] - exact[name]) / np.linalg.norm(exact[name])
        assert error < 0.1, (name, error)
    assert np.mean(int8["mask"] == exact["mask"]) > 0.9


def test_each_output_channel_has_its_own_scale(pair: Pair) -> None:
    model = onnx.load(pair.int8)
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    made_by = makers(model)
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) > 52
    for layer in layers:
        weight, scale, zero = (constants[name] for name in made_by[layer.input[1]].input)
        assert weight.dtype == np.int8
        assert scale.shape == (weight.shape[0],)
        assert not zero.any()
        bias = constants[made_by[layer.input[2]].input[0]]
        assert bias.dtype == np.int32


def test_operations_after_the_last_maps_stay_in_floats(pair: Pair) -> None:
    model = onnx.load(pair.int8)
    made_by = makers(model)
    rounded = Counter(made_by[node.input[0]].op_type for node in model.graph.node if node.op_type == "QuantizeLinear")
    # Means are rounded where a layer with weights reads them.
    assert set(rounded) == {"Conv", "Add", "Concat", "Expand", "ReduceMean"}
    # Ten sums of shortcuts but none that decode boxes; one concatenation of maps but none of boxes and scores.
    assert rounded["Add"] == 10
    assert rounded["Concat"] == 1


def test_runtime_finds_an_integer_kernel_for_each_layer_and_no_activation_is_left(pair: Pair, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(pair.int8, options, providers=["CPUExecutionProvider"])
    runs = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    before = Counter(node.op_type for node in onnx.load(pair.exact).graph.node)
    assert runs["QLinearConv"] == before["Conv"]
    assert runs["QLinearAdd"] == 10
    assert runs["QGemm"] == 1
    assert runs["Conv"] == runs["Gemm"] == runs["Relu"] == 0
    # One is left in the decoding of boxes, where it limits the exponent of sizes.
    assert runs["Clip"] <= 1
    assert runs["QuantizeLinear"] <= 2


def test_the_first_convolution_reads_bytes(pair: Pair, gray_pair: Pair) -> None:
    for path, zero in ((pair.int8, 0), (gray_pair.int8, 128)):
        model = onnx.load(path)
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        made_by = makers(model)
        dequantize = made_by[first.input[0]]
        constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        assert dequantize.op_type == "DequantizeLinear"
        assert made_by[dequantize.input[0]].op_type == "Transpose"
        assert constants[dequantize.input[1]] == 1
        assert constants[dequantize.input[2]] == zero


def test_weights_take_a_byte_each(pair: Pair) -> None:
    def of_weights(path: Path) -> int:
        stored = [
            each for each in onnx.load(path).graph.initializer if len(each.dims) in (2, 4) and 1 not in each.dims[:1]
        ]
        return sum(numpy_helper.to_array(each).nbytes for each in stored if "weight" in each.name)

    assert of_weights(pair.int8) * 4 == of_weights(pair.exact)
    assert pair.int8.stat().st_size < 0.5 * pair.exact.stat().st_size


def test_a_fixed_batch_size_is_kept(gray_pair: Pair) -> None:
    images = np.stack(noise(2, SIZE, seed=1))
    assert onnx.load(gray_pair.int8).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    exact, int8 = (outputs(path, images)["probabilities"] for path in gray_pair)
    np.testing.assert_allclose(int8, exact, atol=0.05)


def test_biases_undo_the_shift_of_rounded_weights(tmp_path: Path) -> None:
    # With a weight of 1 in the channel a step is 1/127, and 26 weights of 0.3 steps are rounded to zero. For a mean
    # pixel of 128 that would shift the sum by 0.3 / 127 * 26 * 128 = 7.9.
    weight = np.full((1, 3, 3, 3), 0.3 / 127, dtype=np.float32)
    weight[0, 0, 1, 1] = 1
    constants = {"mean": np.zeros((1, 3, 1, 1), np.float32), "weight": weight, "bias": np.zeros(1, np.float32)}
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], name="a", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], name="b", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centered"], name="c"),
        helper.make_node(
            "Conv",
            ["centered", "weight", "bias"],
            ["maps"],
            name="d",
            pads=[0, 0, 0, 0],
            kernel_shape=[3, 3],
            strides=[1, 1],
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 32, 32, 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [1, 1, 30, 30])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "a.onnx")
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    quantize_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", list(images))
    exact, int8 = (
        np.stack([outputs(tmp_path / name, image[None])["maps"] for image in images]) for name in ("a.onnx", "b.onnx")
    )
    assert abs((int8 - exact).mean()) < 0.5
