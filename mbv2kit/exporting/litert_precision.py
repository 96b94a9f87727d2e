"""Converts a .tflite file from float32 to fp16 weights or to 8-bit integers."""

import re
from collections.abc import Sequence

from mbv2kit.inference.runtimes.litert import SIGNATURE
from mbv2kit.models.exports import INPUT
from mbv2kit.process import silence_stderr, usable_cores
from mbv2kit.structures import Image

with silence_stderr():  # the libraries print banners
    from ai_edge_litert.tools import flatbuffer_utils
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def store_weights_as_fp16(model: bytes) -> bytes:
    """Returns a .tflite file with fp16 weights, from a file with float32."""
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    quantizer = Quantizer(model)
    for layer in _LAYERS:
        quantizer.update_quantization_recipe(".*", TFLOperationName(layer), config, AlgorithmName.FLOAT_CASTING)
    return bytes(quantizer.quantize(enable_progress_report=False).quantized_model)


def quantize(model: bytes, batches: Sequence[Image]) -> bytes:
    """Returns a .tflite file that computes in 8-bit integers from its first layer to its last.

    Weights are scaled by channel. Operations before and after the layers, such as softmax and decoding boxes, stay in
    float32.

    Args:
        model: The file with float32.
        batches: Inputs from which the ranges are taken, ``(B, H, W, 3)`` uint8 each.
    """
    quantizer = Quantizer(model)
    quantizer.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for scope, operation in (
        (".*", TFLOperationName.INPUT),
        (".*", TFLOperationName.OUTPUT),
        *((f"^{re.escape(name)};$", TFLOperationName.ALL_SUPPORTED) for name in _outside_of_layers(model)),
    ):
        quantizer.update_quantization_recipe(scope, operation, algorithm_key=AlgorithmName.NO_QUANTIZE)
    recipe = RecipeManager()
    recipe.load_quantization_recipe(quantizer.get_quantization_recipe())
    # The full range: moving averages, the quantizer's default, cut off a fifth and cost MobileNetV2 13 points.
    calibrator = Calibrator(model, num_threads=usable_cores(), qsv_update_func=min_max_update)
    calibrator.calibrate({SIGNATURE: [{INPUT: batch} for batch in batches]}, recipe)
    result = quantizer.quantize(calibrator.get_model_qsvs(), enable_progress_report=False)
    return bytes(result.quantized_model)


def _outside_of_layers(model: bytes) -> list[str]:
    """Names the outputs of the operations before the first and after the last layers."""
    content = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    graph = content.subgraphs[0]
    layers = [flatbuffer_utils.opcode_to_name(content, operator.opcodeIndex) in _LAYERS for operator in graph.operators]
    fed: set[int] = set()
    for operator, layer in zip(graph.operators, layers, strict=True):
        if layer or fed.intersection(operator.inputs):
            fed.update(operator.outputs)
    needed: set[int] = set()
    for operator, layer in zip(reversed(graph.operators), reversed(layers), strict=True):
        if layer or needed.intersection(operator.outputs):
            needed.update(operator.inputs)
    return [
        graph.tensors[operator.outputs[0]].name.decode()
        for operator, layer in zip(graph.operators, layers, strict=True)
        if not (layer or (fed.intersection(operator.outputs) and needed.intersection(operator.outputs)))
    ]
