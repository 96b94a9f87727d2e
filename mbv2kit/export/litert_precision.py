"""The narrower forms of a .tflite file: half floats, and 8-bit integers."""

import re
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.inference.runtimes.litert import SIGNATURE
from mbv2kit.network import ExportNetwork
from mbv2kit.process import hold_back_stderr, usable_cores
from mbv2kit.structures import Image

with hold_back_stderr():  # they greet there
    from ai_edge_litert.tools import flatbuffer_utils
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

INPUT = "images"
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Of the bias, as the least that the largest weight of its channel may be. With inputs in steps of 0.003 and more the
# bias then fits into 32 bits, and the added weight changes the channel by 0.3 % of its bias at most.
_LEAST_WEIGHT = 2e-5
_PICTURES_FOR_MEANS = 32


@torch.no_grad()
def prepare_for_rounding(network: ExportNetwork, batches: Sequence[Image]) -> ExportNetwork:
    """Returns a copy whose weights can be rounded to 8 bits: no bias overflows, and no channel's mean is shifted.

    Batch norms leave channels that never vary: the bias is all they have, and in the scale of weights next to nothing
    it would be cut off. Where a channel's inputs are positive throughout, errors of its weights do not cancel; the bias
    takes their mean back (Nagel et al., arXiv 1906.04721, section 4.2).

    Args:
        network: With its norms folded; it is copied.
        batches: Inputs to measure means on, ``(B, H, W, 3)`` uint8 each; the first few will do.
    """
    copy = deepcopy(network)
    for layer, mean in _input_means(copy, batches[:_PICTURES_FOR_MEANS]).items():
        bias = layer.bias
        assert bias is not None
        exact = layer.weight.flatten(1)
        largest = exact.abs().argmax(dim=1, keepdim=True)
        value, least = exact.gather(1, largest), _LEAST_WEIGHT * bias.abs()[:, None]
        weights = exact.scatter(1, largest, torch.where(value.abs() < least, least, value))
        step = (weights.abs().amax(dim=1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        error = ((weights / step).round() * step - exact).view(*layer.weight.shape[:2], -1).sum(dim=2)
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        bias -= F.conv1d(mean[None, :, None], error[:, :, None], groups=groups).flatten()
        layer.weight.copy_(weights.view_as(layer.weight))
    return copy


def _input_means(network: nn.Module, batches: Sequence[Image]) -> dict[nn.Conv2d | nn.Linear, Tensor]:
    """Returns, for each layer that runs and has a bias, the mean of every channel that it reads."""
    means: dict[nn.Conv2d | nn.Linear, Tensor] = {}

    def add(layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        map_or_vector = inputs[0] if inputs[0].dim() == 4 else inputs[0][:, :, None, None]
        means[layer] = means.get(layer, torch.zeros(())) + map_or_vector.mean(dim=(0, 2, 3)) / len(batches)

    hooks = [
        layer.register_forward_pre_hook(add)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
    ]
    for batch in batches:
        network(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    return means


def halve_weights(model: bytes) -> bytes:
    """Returns a .tflite file with its weights as half floats, from one with float32."""
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    quantizer = Quantizer(model)
    for layer in _LAYERS:
        quantizer.update_quantization_recipe(".*", TFLOperationName(layer), config, AlgorithmName.FLOAT_CASTING)
    return bytes(quantizer.quantize(enable_progress_report=False).quantized_model)


def quantise(model: bytes, batches: Sequence[Image]) -> bytes:
    """Returns a .tflite file that computes in 8-bit integers from its first layer to its last.

    Weights are scaled by channel. What is before and behind the layers, such as softmax and the decoding of boxes,
    stays in float32.

    Args:
        model: The file with float32.
        batches: Inputs that the ranges are taken from, ``(B, H, W, 3)`` uint8 each.
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
    # The widest ranges: moving averages, the quantizer's own choice, cut a fifth off and cost MobileNetV2 13 points.
    calibrator = Calibrator(model, num_threads=usable_cores(), qsv_update_func=min_max_update)
    calibrator.calibrate({SIGNATURE: [{INPUT: batch} for batch in batches]}, recipe)
    result = quantizer.quantize(calibrator.get_model_qsvs(), enable_progress_report=False)
    return bytes(result.quantized_model)


def _outside_of_layers(model: bytes) -> list[str]:
    """Names the results of the operations before the first layers and behind the last ones."""
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
