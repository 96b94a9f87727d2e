import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch.nn import functional as F

from mbv2kit.exporting.onnx_pixels import use_whole_means
from tests.exporting.models import noise

Pads = tuple[int, int, int, int]
WEIGHT = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
BIAS = np.arange(4, dtype=np.float32)


def beginning(mean: tuple[float, float, float], size: tuple[int, int], pads: Pads, batch: int | str) -> ModelProto:
    constants = {"mean": np.array(mean, np.float32).reshape(1, 3, 1, 1), "weight": WEIGHT, "bias": BIAS}
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "mean"], ["centered"]),
        helper.make_node(
            "Conv", ["centered", "weight", "bias"], ["maps"], strides=[2, 2], pads=pads, kernel_shape=[3, 3]
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "beginning",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, *size, 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def run(model: ModelProto, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0])


def convolved(
    images: NDArray[np.uint8], padding: tuple[float, ...], mean: tuple[float, ...], pads: Pads
) -> NDArray[np.float64]:
    """Pads with a color, subtracts the mean and convolves."""
    top, left, bottom, right = pads
    count, height, width, _ = images.shape
    framed = np.empty((count, top + height + bottom, left + width + right, 3))
    framed[:] = padding
    framed[:, top : top + height, left : left + width] = images
    inputs = torch.from_numpy(framed - np.array(mean)).permute(0, 3, 1, 2)
    weight, bias = torch.from_numpy(WEIGHT).double(), torch.from_numpy(BIAS).double()
    return F.conv2d(inputs, weight, bias, stride=2).numpy()


@pytest.mark.parametrize("batch", [2, "batch"])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 1, 1), (0, 0, 0, 0)])
@pytest.mark.parametrize("size", [(12, 16), (13, 9)])
@pytest.mark.parametrize("mean", [(128.0, 128.0, 128.0), (127.5, 127.5, 127.5), (123.675, 116.28, 103.53)])
def test_only_the_padding_is_rounded_to_whole_gray_levels(
    mean: tuple[float, float, float], size: tuple[int, int], pads: Pads, batch: int | str
) -> None:
    model = beginning(mean, size, pads, batch)
    images = np.stack(noise(2, size))
    np.testing.assert_allclose(run(model, images), convolved(images, mean, mean, pads), atol=1e-3)
    assert use_whole_means(model) is not None
    whole = tuple(float(np.rint(level)) for level in mean)
    np.testing.assert_allclose(run(model, images), convolved(images, whole, mean, pads), atol=1e-3)


@pytest.mark.parametrize(("mean", "gray"), [((127.5, 127.5, 127.5), 128), ((123.675, 116.28, 103.53), 0)])
def test_the_convolution_reads_pixels_minus_one_gray_level(mean: tuple[float, float, float], gray: int) -> None:
    model = beginning(mean, (8, 8), (1, 1, 1, 1), 1)
    assert use_whole_means(model) == ("centered", gray)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("centered", TensorProto.FLOAT, [None] * 4))
    (image,) = noise(1, (8, 8))
    centered = run(model, image[None])[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(centered[-8:, -8:] + gray, image)


def test_a_network_that_begins_differently_is_unchanged() -> None:
    model = beginning((1.0, 2.0, 3.0), (8, 8), (1, 1, 1, 1), 1)
    model.graph.node[2].op_type = "Add"
    before = model.SerializeToString()
    assert use_whole_means(model) is None
    assert model.SerializeToString() == before
