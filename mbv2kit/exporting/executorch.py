"""ExecuTorch (.pte) with XNNPACK: a small runtime in C++ for phones and boards, and quick on a CPU."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401 - makes the operations between bytes and floats known
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
from mbv2kit.exporting.executorch_rewrites import BYTES, InForms, aten, feeds_alone, pad_in_convolutions
from mbv2kit.exporting.fp16 import round_to
from mbv2kit.exporting.quiet import quietly
from mbv2kit.exporting.rounding import LARGEST, prepare_for_rounding
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Precision
from mbv2kit.structures import Image

# The network sees pixels in 128ths, which is exact, so that the weights of the first convolution are of the size of all
# others and can be rounded like them.
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
    """Writes a network as one .pte file: uint8 images in, answers in the order of ``network.output_names`` out.

    The input is a tensor ``(batch, 3, H, W)`` whose memory is that of ``(batch, H, W, 3)``, which ExecuTorch calls
    channels last. All but the making of floats from bytes, and of a mask's bytes, is done by XNNPACK.

    ``int8`` computes the layers in 8-bit integers, with weights scaled by channel and biases corrected for their
    rounding; what is before and behind, such as softmax and the decoding of boxes, stays in float32. ``fp16`` has its
    layers in half floats.

    Args:
        network: What to write.
        path: The file.
        batch: Images at a time.
        precision: In which the network shall compute.
        calibration: Inputs that int8 takes its ranges from, ``(H, W, 3)`` uint8 each.

    Raises:
        UserError: ``batch`` is None: memory is planned for a fixed number of images.
    """
    if batch is None:
        raise UserError(
            "An ExecuTorch file takes a fixed number of images at a time; give batch=1, or as many as you need."
        )
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
        program = _compute_constants(torch.export.export(InForms(module), (example,)))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner(_CONFIGS)])
        path.write_bytes(lowered.to_executorch().buffer)


class _Images(nn.Module):
    """A network for images that lie in memory as XNNPACK wants them, so that nothing is transposed.

    Bytes become floats by the operation that undoes a quantization, which takes a sixth of the time of a cast. The mean
    is that of a whole row of pixels: XNNPACK is slow at numbers that come in threes.
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
    # The logits of a classifier stay floats: in eight bits, the two highest are often the same number.
    linear = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantizer.set_operator_type(aten.linear.default, linear)
    prepared = prepare_pt2e(module, quantizer)
    for images in batches:
        prepared(images)
    converted: GraphModule = convert_pt2e(prepared)
    return converted


def _annotate_bounded(module: GraphModule) -> None:
    """Says of ReLU6 and of padding, which XNNPACK's quantizer does not know, how to quantize them.

    A convolution is cut to 0..6 as it is rounded, not after it, and zeros around a map are in the map's own scale.
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
    """Keeps the quantizer from what is before the first layers and behind the last ones, such as anchors and boxes."""
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
    """Has XNNPACK pad in 8 bits, which it can, where ExecuTorch would make floats of them."""

    def supported_precision_types(self) -> list[ConfigPrecisionType]:
        return [ConfigPrecisionType.FP32, ConfigPrecisionType.STATIC_QUANT]


_CONFIGS = [_PadConfig if config is ConstantPadConfig else config for config in ALL_PARTITIONER_CONFIGS]


def _compute_constants(program: ExportedProgram) -> ExportedProgram:
    """Computes what does not depend on the images, such as anchors, but makes no floats of int8 weights."""
    program = program.run_decompositions({})
    kept = {node.target for node in program.graph.nodes if "quantized_decomposed" in str(node.target)}
    computed: ExportedProgram = constant_prop_pass(program, custom_skip_targets=kept)
    return computed
