"""Writes ExecuTorch files (.pte) for XNNPACK: a small runtime in C++ for phones and boards, also fast on a CPU."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401 - registers operations between bytes and floats
import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS, ConstantPadConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationConfig,
    QuantizationSpec,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from mbv2kit.errors import UserError
from mbv2kit.exporting.executorch_rewrites import BYTES, Rewritten, aten, feeds_alone, pad_in_convolutions
from mbv2kit.exporting.fp16 import round_to
from mbv2kit.exporting.quiet import quietly
from mbv2kit.exporting.rounding import LARGEST, prepare_for_rounding
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Precision
from mbv2kit.structures import Image

# Pixels enter the network in units of 1/128, which is exact. The weights of the first convolution then have the
# magnitude of all others and can be rounded in the same way.
_PIXEL_SCALE = 2.0**-7

_ACTIVATIONS = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12),
)
_WEIGHTS = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-LARGEST,
    quant_max=LARGEST,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
)


def export_executorch(
    network: ExportNetwork,
    path: Path,
    *,
    batch: int | None,
    precision: Precision,
    calibration: Sequence[Image] | None,
) -> None:
    """Writes a network as one .pte file with uint8 images as input and the outputs ``network.output_names``, in order.

    The input is a tensor ``(batch, 3, H, W)`` with the memory layout of ``(batch, H, W, 3)``, which ExecuTorch calls
    channels last. XNNPACK runs everything except the conversions from bytes to floats and from floats to a mask.

    ``int8`` computes the layers in 8-bit integers, with weights scaled by channel and biases corrected for the rounding
    of the weights. Operations before the first and after the last layer, such as softmax and decoding boxes, stay in
    float32. ``fp16`` computes the layers in fp16.

    Args:
        network: The network to write.
        path: The file.
        batch: Number of images per batch.
        precision: Precision in which the network computes.
        calibration: Inputs from which int8 takes its ranges, ``(H, W, 3)`` uint8 each.

    Raises:
        UserError: ``batch`` is None: memory is planned for a fixed number of images.
    """
    if batch is None:
        raise UserError("An ExecuTorch file has a fixed batch size; give batch=1, or as many images as you need.")
    example = _channels_last(network.example(batch))
    batches = [image[None].repeat(batch, axis=0) for image in calibration or ()]
    with quietly(), torch.no_grad():
        if precision == "int8":
            network = prepare_for_rounding(network, batches)
        elif precision == "fp16":
            network = round_to(network, torch.float16)
        wrapped = _Images(network, fp16=precision == "fp16").eval()
        module = torch.export.export(wrapped, (example,)).module()
        assert isinstance(module, GraphModule)
        pad_in_convolutions(module)
        if precision == "int8":
            module = _quantize(module, [_channels_last(torch.from_numpy(images)) for images in batches])
        program = _compute_constants(torch.export.export(Rewritten(module), (example,)))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner(_CONFIGS)])
        path.write_bytes(lowered.to_executorch().buffer)


class _Images(nn.Module):
    """A network for images in the memory layout of XNNPACK, so that nothing is transposed.

    Bytes become floats by dequantization, which takes a sixth of the time of a cast. The mean is stored for a whole row
    of pixels, because XNNPACK is slow at broadcasting three values.
    """

    mean: Tensor

    def __init__(self, network: ExportNetwork, *, fp16: bool) -> None:
        super().__init__()
        self.network = deepcopy(network)
        self.register_buffer("mean", (network.mean * _PIXEL_SCALE).repeat(1, 1, 1, network.size[1]))
        first = next(part for part in self.network.backbone.modules() if isinstance(part, nn.Conv2d))
        first.weight.div_(_PIXEL_SCALE)
        self.dtype = torch.float16 if fp16 else torch.float32
        self.network.to(self.dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        make_floats = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        pixels = make_floats(images, _PIXEL_SCALE, 0, *BYTES) - self.mean
        return self.network.head_outputs(self.network.backbone(pixels.to(self.dtype)))


def _channels_last(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def _quantize(module: GraphModule, batches: Sequence[Tensor]) -> GraphModule:
    _annotate_bounded(module)
    _keep_floats(module)
    quantizer = XNNPACKQuantizer()
    quantizer.set_global(QuantizationConfig(_ACTIVATIONS, _ACTIVATIONS, _WEIGHTS, None))
    # The logits of a classifier stay floats: in 8 bits, the two highest are often equal.
    linear = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantizer.set_operator_type(aten.linear.default, linear)
    prepared = prepare_pt2e(module, quantizer)
    for images in batches:
        prepared(images)
    converted: GraphModule = convert_pt2e(prepared)
    return converted


def _annotate_bounded(module: GraphModule) -> None:
    """Annotates ReLU6 and padding, which XNNPACK's quantizer does not know, for quantization.

    A convolution is clipped to 0..6 when it is rounded, not afterwards, and zeros around a map have the map's scale.
    """
    for node in module.graph.nodes:
        if node.target is aten.hardtanh.default and feeds_alone(node.args[0], aten.conv2d.default):
            conv = node.args[0]
            inputs = {conv.args[0]: _ACTIVATIONS, conv.args[1]: _WEIGHTS}
            conv.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, _annotated=True)
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(output_qspec=_ACTIVATIONS, _annotated=True)
        elif node.target is aten.pad.default:
            maps = node.args[0]
            maps.meta.setdefault(Q_ANNOTATION_KEY, QuantizationAnnotation(output_qspec=_ACTIVATIONS, _annotated=True))
            shared = SharedQuantizationSpec(maps)
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation({maps: shared}, shared, _annotated=True)


def _keep_floats(module: GraphModule) -> None:
    """Excludes operations before the first and after the last layers, such as boxes, from quantization."""
    layers = (aten.conv2d.default, aten.linear.default)
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    fed: set[Node] = set()
    for node in nodes:
        if node.target in layers or fed.intersection(node.all_input_nodes):
            fed.add(node)
    needed: set[Node] = set()
    for node in reversed(nodes):
        if node.target in layers or needed.intersection(node.users):
            needed.add(node)
    between = fed & needed
    for node in nodes:
        if node not in between:
            node.meta.setdefault(Q_ANNOTATION_KEY, QuantizationAnnotation(_annotated=True))


class _PadConfig(ConstantPadConfig):  # type: ignore[misc] # the library has no types
    """Lets XNNPACK pad in 8 bits, which it supports; ExecuTorch would convert to floats."""

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


_CONFIGS = [_PadConfig if config is ConstantPadConfig else config for config in ALL_PARTITIONER_CONFIGS]


def _compute_constants(program: ExportedProgram) -> ExportedProgram:
    """Computes values that do not depend on the images, such as anchors, but keeps weights in int8."""
    program = program.run_decompositions({})
    kept = {node.target for node in program.graph.nodes if "quantized_decomposed" in str(node.target)}
    computed: ExportedProgram = constant_prop_pass(program, custom_skip_targets=kept)
    return computed
