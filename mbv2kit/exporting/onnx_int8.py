"""Writes int8 ONNX: post-training quantization for ONNX Runtime, with QuantizeLinear and DequantizeLinear.

Weights are signed, with a scale for each output channel. Activations are unsigned, from the smallest to the largest
value on the calibration images. x86 processors have an instruction for this combination (VNNI); with signed
activations, ONNX Runtime leaves depthwise convolutions in floats. ReLU6 is free, because the range of the next tensor
clips the same values. Operations after the last maps - pooling, softmax, box decoding, interpolation - stay in floats.
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

# Layers with weights are always quantized, these operations if they read only maps of such layers.
_ON_MAPS = frozenset({"Add", "AveragePool", "Clip", "Concat", "LeakyRelu", "MaxPool", "Relu"})
# Repeats a map and rounds no value.
_REPEATS = "Expand"


def quantize_onnx(source: Path, target: Path, calibration: Sequence[Image]) -> None:
    """Writes a network in int8, from a file of :func:`~mbv2kit.exporting.onnx.export_onnx`.

    Args:
        source: The network in float32.
        target: The file to write.
        calibration: At least one input, ``(H, W, 3)`` uint8 each, from which ranges and means are taken.
    """
    with TemporaryDirectory() as folder, quietly():
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        # ONNX's own shape inference is enough; the symbolic kind needs another package.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        exact = onnx.load(prepared)
        give_biases(exact)
        pixels = use_whole_means(exact)
        onnx.save(exact, prepared)
        batch = exact.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
        overrides = (
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
            # A linear layer can return its logits as floats at no cost, a convolution cannot.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"], "TensorQuantOverrides": overrides},
        )
        model = onnx.load(quantized)
        correct_biases(exact, model, _batches(calibration, batch))
        if pixels is not None:
            read_bytes(model, pixels[0])
        onnx.save(model, target)


def _nodes_to_quantize(model: ModelProto) -> list[str]:
    """Names the layers with weights, and the operations that read only their maps."""
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
    """Yields batches of one size; the last one is filled with images from the start."""
    for start in range(0, len(images), batch):
        yield np.stack([images[(start + i) % len(images)] for i in range(batch)])


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, batches: Iterator[NDArray[np.uint8]]) -> None:
        self._name, self._batches = name, batches

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        images = next(self._batches, None)
        return None if images is None else {self._name: images}
