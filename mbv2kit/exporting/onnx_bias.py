"""Bias correction: biases that compensate for the effect of rounded weights on the mean of every channel.

The errors of a channel's rounded weights do not cancel if its inputs are all positive, as they are after a ReLU6. They
shift the channel by a constant, which its bias can undo (Nagel et al., Data-Free Quantization Through Weight
Equalization and Bias Correction, arXiv 1906.04721, section 4.2; here with means measured on images).
"""

from collections.abc import Iterable

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from mbv2kit.exporting.onnx_graph import Graph, attribute

# The layers with weights.
LAYERS = frozenset({"Conv", "Gemm"})


def give_biases(model: ModelProto) -> None:
    """Adds a bias of zero to each layer without a bias, in place."""
    graph = Graph(model.graph)
    for node in graph.nodes:
        if node.op_type in LAYERS and len(node.input) == 2 and graph.is_constant(node.input[1]):
            channels = graph.constant(node.input[1]).shape[_channel_axis(node)]
            node.input.append(graph.set_constant(f"{node.name}.bias", np.zeros(channels, dtype=np.float32)))


def correct_biases(exact: ModelProto, quantized: ModelProto, batches: Iterable[NDArray[np.uint8]]) -> None:
    """Corrects the biases of the quantized network in place.

    Args:
        exact: The network before quantization; every layer has a bias.
        quantized: The same network with pairs of QuantizeLinear and DequantizeLinear.
        batches: Images on which means are measured, ``(B, H, W, 3)`` uint8 each.
    """
    graph, before = Graph(quantized.graph), Graph(exact.graph)
    layers = [node for node in graph.nodes if node.op_type in LAYERS and _is_quantized(graph, node)]
    names = {node.name for node in layers}
    means = _input_means(exact, {node.name: node.input[0] for node in before.nodes if node.name in names}, batches)
    weights = {node.name: before.constant(node.input[1]) for node in before.nodes if node.name in names}
    for node in layers:
        rounded, bias = graph.producer(node.input[1]), graph.producer(node.input[2])
        assert rounded is not None
        assert bias is not None
        error = _dequantize(graph, rounded) - weights[node.name]
        shift = _shift(node, error, means[node.name])
        steps = np.rint(shift / graph.constant(bias.input[1]).astype(np.float64))
        limits = np.iinfo(np.int32)
        corrected = np.clip(graph.constant(bias.input[0]).astype(np.float64) - steps, limits.min, limits.max)
        graph.set_constant(bias.input[0], corrected.astype(np.int32))


def _channel_axis(node: NodeProto) -> int:
    """Returns the axis of the output channels in a layer's weights."""
    return 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0


def _is_quantized(graph: Graph, node: NodeProto) -> bool:
    weight = graph.producer(node.input[1])
    return weight is not None and weight.op_type == "DequantizeLinear"


def _input_means(
    model: ModelProto, inputs: dict[str, str], batches: Iterable[NDArray[np.uint8]]
) -> dict[str, NDArray[np.float64]]:
    """Returns, by name of the layer, the mean of every channel of its input."""
    probed = ModelProto()
    probed.CopyFrom(model)
    names = sorted(set(inputs.values()))
    del probed.graph.output[:]
    probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = ort.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    sums, count = {name: np.zeros(1) for name in names}, 0
    for images in batches:
        for name, values in zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True):
            sums[name] = sums[name] + values.mean(axis=tuple(range(2, values.ndim)), dtype=np.float64).sum(axis=0)
        count += len(images)
    return {layer: sums[tensor] / count for layer, tensor in inputs.items()}


def _dequantize(graph: Graph, node: NodeProto) -> NDArray[np.float64]:
    values, scale = (graph.constant(name).astype(np.float64) for name in node.input[:2])
    axis = attribute(node, "axis", 1)
    return np.asarray(values * scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)]))


def _shift(node: NodeProto, error: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns by how much errors of the weights shift the mean of each output channel, ignoring borders."""
    if node.op_type == "Gemm":
        return np.asarray(np.tensordot(error, means, axes=(1 - _channel_axis(node), 0)))
    groups = attribute(node, "group", 1)
    taps = error.sum(axis=(2, 3)).reshape(groups, -1, error.shape[1])
    return np.asarray(np.einsum("goi,gi->go", taps, means.reshape(groups, -1)).reshape(-1))
