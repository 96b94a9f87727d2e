"""ExecuTorch (.pte) with XNNPACK: a small runtime in C++ for phones and boards, and quick on a CPU."""

import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import executorch.kernels.quantized  # noqa: F401 - makes the operations known that turn bytes into floats and back
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional as F
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, SharedQuantizationSpec
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from mbv2kit.errors import UserError
from mbv2kit.exports import Precision
from mbv2kit.heads import Head
from mbv2kit.network import ExportNetwork
from mbv2kit.structures import Image

# The network sees pixels in 128ths, which is exact. The weights of the first convolution are then of the size of all
# others; the quantizer has a least step, which is too coarse for weights that take pixels.
_PIXEL_SCALE = 2.0**-7
_aten = torch.ops.aten
_CONV2D = (None, None, None, [1, 1], [0, 0], [1, 1], 1)
_BYTES = (0, 255, torch.uint8)


def export_executorch(
    network: ExportNetwork,
    path: Path,
    *,
    batch: int | None,
    precision: Precision,
    calibration: Sequence[Image] | None,
) -> None:
    """Writes a network as one .pte file: uint8 pictures in, answers in the order of ``network.outputs`` out.

    The input is a tensor ``(batch, 3, H, W)`` whose memory is that of ``(batch, H, W, 3)``, which ExecuTorch calls
    channels last. All but the conversion of bytes into floats, and of a mask into bytes, is done by XNNPACK.

    ``int8`` computes the layers in 8-bit integers, with weights scaled by channel; softmax, the decoding of boxes,
    interpolation and arg-max stay in float32. ``fp16`` has its layers in half floats.

    Args:
        network: What to write.
        path: The file.
        batch: Pictures at a time.
        precision: In which the network shall compute.
        calibration: Inputs that int8 takes its ranges from, ``(H, W, 3)`` uint8 each.

    Raises:
        UserError: ``batch`` is None: memory is planned for a fixed number of pictures.
    """
    if batch is None:
        raise UserError(
            "An ExecuTorch file takes a fixed number of pictures at a time; give batch=1, or as many as you need."
        )
    example = _channels_last(network.example(batch))
    with _quietly(), torch.no_grad():
        module = _capture(_Pictures(network, half=precision == "fp16").eval(), example)
        if precision == "int8":
            assert calibration is not None
            batches = (image[None].repeat(batch, axis=0) for image in calibration)
            module = _quantise(module, [_channels_last(torch.from_numpy(images)) for images in batches])
        program = _compute_constants(torch.export.export(_InForms(module), (example,)))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)


class _Pictures(nn.Module):
    """A network for pictures that lie in memory as XNNPACK wants them, so that nothing is transposed.

    Bytes become floats by the operation that undoes a quantisation: it takes a sixth of the time of a cast, and where
    one whole number is the mean of all three channels it subtracts that as well.
    """

    def __init__(self, network: ExportNetwork, *, half: bool) -> None:
        super().__init__()
        copy = deepcopy(network)
        self.size, self.outputs = network.size, network.outputs
        self.backbone, self.heads = copy.backbone, copy.heads
        self.half_floats = half
        first = next(part for part in self.backbone.modules() if isinstance(part, nn.Conv2d))
        first.weight.div_(_PIXEL_SCALE)
        whole = int(network.mean[0, 0])
        self.zero_point = whole if bool((network.mean == whole).all()) else 0
        self.register_buffer("mean", None if self.zero_point else network.mean * _PIXEL_SCALE)
        if half:
            self.backbone.half()
            self.heads.half()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        decode = torch.ops.quantized_decomposed.dequantize_per_tensor.default
        pixels = decode(images, _PIXEL_SCALE, self.zero_point, *_BYTES)
        if self.mean is not None:
            pixels = pixels - self.mean
        features = self.backbone(pixels.half() if self.half_floats else pixels)
        answers: dict[str, Tensor] = {}
        for head in self.heads.values():
            assert isinstance(head, Head)
            answers |= head.answer(head(features), self.size)
        return tuple(answers[name] for name in self.outputs)


def _channels_last(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def _capture(module: nn.Module, example: Tensor) -> GraphModule:
    captured = torch.export.export(module, (example,)).module()
    assert isinstance(captured, GraphModule)
    for node in list(captured.graph.nodes):
        if node.target is _aten.conv2d.default and _feeds_alone(node.args[0], _aten.pad.default):
            pad = node.args[0]
            left, right, top, bottom = pad.args[1]
            if left == right and top == bottom:
                images, weight, bias, stride, padding, *others = (*node.args, *_CONV2D[len(node.args) :])
                assert padding == [0, 0]
                node.args = (pad.args[0], weight, bias, stride, [top, left], *others)
                captured.graph.erase_node(pad)
    captured.recompile()
    return captured


def _quantise(module: GraphModule, batches: Sequence[Tensor]) -> GraphModule:
    quantizer = _Quantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(_is_in_a_layer)
    prepared = prepare_pt2e(module, quantizer)
    for images in batches:
        prepared(images)
    converted: GraphModule = convert_pt2e(prepared)
    return converted


class _Quantizer(XNNPACKQuantizer):
    """XNNPACK's quantizer, which knows ReLU6 as well: a convolution is cut to 0..6 as it is rounded, not after it.

    Zeros that are added around a map are in the map's own scale.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        config = self.global_config
        for node in model.graph.nodes:
            if node.target is _aten.hardtanh.default and _feeds_alone(node.args[0], _aten.conv2d.default):
                conv = node.args[0]
                inputs = {conv.args[0]: config.input_activation, conv.args[1]: config.weight}
                conv.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(inputs, _annotated=True)
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    output_qspec=config.output_activation, _annotated=True
                )
            elif node.target is _aten.pad.default and Q_ANNOTATION_KEY in node.args[0].meta:
                shared = SharedQuantizationSpec(node.args[0])
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation({node.args[0]: shared}, shared, _annotated=True)
        return super().annotate(model)


def _feeds_alone(node: Node, target: Any) -> bool:
    return node.target is target and len(node.users) == 1


def _is_in_a_layer(node: Node) -> bool:
    """Whether an operation, not its weights, belongs to the backbone or a head's layers: what makes answers does not."""
    paths = (path for path, _ in node.meta.get("nn_module_stack", {}).values())
    return node.op == "get_attr" or any(path.startswith(("backbone", "heads")) for path in paths)


class _InForms(nn.Module):
    """A captured network with the operations that XNNPACK does not have put into terms of those that it has."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        return _Rewriter(self.module).run(images)


class _Rewriter(Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        form = _FORMS.get(target)
        result = NotImplemented if form is None else form(*args, **kwargs)
        return super().call_function(target, args, kwargs) if result is NotImplemented else result


def _mean(maps: Tensor, dim: Sequence[int], keepdim: bool = False) -> Any:
    """XNNPACK averages over a map's sides and leaves them there."""
    return NotImplemented if keepdim else maps.mean(dim, keepdim=True).flatten(1)


def _expand(maps: Tensor, size: Sequence[int]) -> Any:
    """Spreads one value of each channel over a map."""
    return maps + torch.zeros((1, 1, *size[2:])) if maps.shape[2:] == (1, 1) else NotImplemented


def _matmul(a: Tensor, b: Tensor) -> Any:
    """A product with one matrix is a linear layer, whose weights XNNPACK packs once."""
    if b.dim() == 2:
        return F.linear(a, b.mT)
    return F.linear(b.mT, a).mT if a.dim() == 2 else NotImplemented


def _argmax(maps: Tensor, dim: int) -> Any:
    """Class by class, with as many threads as there are: a third of the time of ExecuTorch's own operation.

    A difference of two floats is zero or, times ``huge``, at least the number of classes: cut to 0..index it is the
    index where this class is above all before it, and else 0.
    """
    if dim != 1:
        return NotImplemented
    huge = 1e37
    highest, *others = maps.split(1, dim=1)
    best = torch.zeros_like(highest)
    for index, values in enumerate(others, start=1):
        best = torch.maximum(best, ((values - highest) * huge).clamp(0, index))
        highest = torch.maximum(highest, values)
    return best.squeeze(1)


def _to_bytes(values: Tensor, dtype: torch.dtype) -> Any:
    """The operation that quantises takes a tenth of the time of a cast."""
    if dtype != torch.uint8:
        return NotImplemented
    return torch.ops.quantized_decomposed.quantize_per_tensor.default(values, 1.0, 0, *_BYTES)


_FORMS: dict[Any, Callable[..., Any]] = {
    _aten.mean.dim: _mean,
    _aten.expand.default: _expand,
    _aten.matmul.default: _matmul,
    _aten.argmax.default: _argmax,
    _aten.to.dtype: _to_bytes,
}


def _compute_constants(program: ExportedProgram) -> ExportedProgram:
    """Computes what does not depend on the pictures, such as anchors, but leaves int8 weights as they are."""
    program = program.run_decompositions({})
    operations = {node.target for node in program.graph.nodes if node.op == "call_function"}
    kept = {each for each in operations - {operator.getitem} if each.namespace == "quantized_decomposed"}
    return constant_prop_pass(program, custom_skip_targets=kept)


@contextmanager
def _quietly() -> Iterator[None]:
    """Holds back what the exporter tells its developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
