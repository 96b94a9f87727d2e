"""Int8 ONNX: post-training quantization for ONNX Runtime, in the form with QuantizeLinear and DequantizeLinear.

Weights are signed, with a scale for each output channel; activations are unsigned, from the least to the greatest value
seen. Those are the forms for which x86 processors have an instruction (VNNI): of a network with signed activations
ONNX Runtime leaves the depthwise convolutions in floats. ReLU6 costs nothing, the range of what follows it cuts off the
same values. What comes behind the last maps - pooling, softmax, box decoding, interpolation - stays in floats.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from mbv2kit.exporting.onnx_bias import LAYERS, correct_biases, give_biases
from mbv2kit.exporting.onnx_graph import Graph
from mbv2kit.exporting.onnx_pixels import read_bytes, use_whole_means
from mbv2kit.exporting.quiet import quietly
from mbv2kit.structures import Image

# Layers with weights are quantized wherever they are, these where all that they read are maps of such layers.
_ON_MAPS = frozenset({"Add", "AveragePool", "Clip", "Concat", "LeakyRelu", "MaxPool", "Relu"})
# Repeats a map and rounds nothing.
_REPEATS = "Expand"


def quantize_onnx(source: Path, target: Path, calibration: Sequence[Image]) -> None:
    """Writes a network of :func:`~mbv2kit.exporting.onnx.export_onnx` in int8.

    Args:
        source: The network in float32.
        target: The file to write.
        calibration: Inputs of the network, ``(H, W, 3)`` uint8 each, at least one, to take ranges and means from.
    """
    with TemporaryDirectory() as folder, quietly():
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        # Only ONNX's own inference of shapes is needed; the other kind wants one more package.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        exact = onnx.load(prepared)
        give_biases(exact)
        pixels = use_whole_means(exact)
        onnx.save(exact, prepared)
        batch = exact.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
        given = (
            {}
            if pixels is None
            else {pixels[0]: [{"scale": np.array(1, np.float32), "zero_point": np.array(pixels[1], np.uint8)}]}
        )
        quantize_static(
            prepared,
            quantized,
            _Reader(exact.graph.input[0].name, _batches(calibration, batch)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=sorted(LAYERS | _ON_MAPS),
            nodes_to_quantize=_nodes_to_quantize(exact),
            # Logits of a linear layer come out as floats at no cost, a convolution's cannot.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"], "TensorQuantOverrides": given},
        )
        model = onnx.load(quantized)
        correct_biases(exact, model, _batches(calibration, batch))
        if pixels is not None:
            read_bytes(model, pixels[0])
        onnx.save(model, target)


def _nodes_to_quantize(model: ModelProto) -> list[str]:
    """Names the layers with weights, and what is computed from their maps alone."""
    graph = Graph(model.graph)
    maps: set[str] = set()
    names = []
    for node in graph.nodes:
        read = [name for name in node.input if name and not graph.is_constant(name)]
        on_maps = maps.issuperset(read)
        if node.op_type in LAYERS or (on_maps and node.op_type in _ON_MAPS):
            names.append(node.name)
        if node.op_type == "Conv" or (on_maps and node.op_type in _ON_MAPS | {_REPEATS}):
            maps.update(node.output)
    return names


def _batches(images: Sequence[Image], batch: int) -> Iterator[NDArray[np.uint8]]:
    """Yields batches of a size; the last one is filled up from the start."""
    for start in range(0, len(images), batch):
        yield np.stack([images[(start + i) % len(images)] for i in range(batch)])


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, batches: Iterator[NDArray[np.uint8]]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        images = next(self._batches, None)
        return None if images is None else {self._name: images}
