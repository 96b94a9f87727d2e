"""Writes LiteRT files (.tflite) with litert-torch: for phones and boards, also fast on a CPU through XNNPACK."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional as F

from mbv2kit.errors import UserError
from mbv2kit.exporting.fp16 import round_to
from mbv2kit.exporting.litert_precision import quantize, store_weights_as_fp16
from mbv2kit.exporting.quiet import quietly
from mbv2kit.exporting.rounding import prepare_for_rounding
from mbv2kit.heads.deeplab_v3 import DeepLabV3
from mbv2kit.imaging.postprocess import with_head
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import INPUT, Precision
from mbv2kit.process import silence_stderr
from mbv2kit.structures import Image

with silence_stderr():  # the library prints a banner
    import litert_torch

_ATEN = torch.ops.aten


def export_litert(
    network: ExportNetwork,
    path: Path,
    *,
    batch: int | None,
    precision: Precision,
    calibration: Sequence[Image] | None,
) -> None:
    """Writes a network as one .tflite file with uint8 images as input and named outputs.

    ``fp16`` stores the weights in fp16 and computes in float32. ``int8`` computes everything from the first to the last
    layer in 8-bit integers, with weights scaled by channel. Operations before and after, such as softmax and decoding
    boxes, stay in float32.

    Args:
        network: The network to write.
        path: The file.
        batch: Number of images per batch.
        precision: Precision in which the network computes.
        calibration: Inputs from which int8 takes its ranges, ``(H, W, 3)`` uint8 each.

    Raises:
        UserError: ``batch`` is None, but shapes in the file are fixed.
    """
    if batch is None:
        raise UserError("A LiteRT file has a fixed batch size; give batch=1, or as many images as you need.")
    with _silently():
        if precision == "int8":
            assert calibration is not None
            batches = [np.repeat(image[None], batch, axis=0) for image in calibration]
            model = quantize(_convert(prepare_for_rounding(network, batches), batch), batches)
        elif precision == "fp16":
            model = store_weights_as_fp16(_convert(round_to(network, torch.float16), batch))
        else:
            model = _convert(network, batch)
    path.write_bytes(model)


class _ChannelsLast(nn.Module):
    """A network that processes whole images in LiteRT's memory layout, with named outputs.

    In this layout, subtracting the mean needs no transposition, and padding becomes part of the first convolution.
    Masks are enlarged by LiteRT's own operation, which is faster than matrix products because arg-max over the last
    axis then takes a sixth of the time.
    """

    mean: Tensor

    def __init__(self, network: ExportNetwork) -> None:
        super().__init__()
        self.size, self.output_names = network.size, network.output_names
        self.backbone, self.heads = network.backbone, network.heads
        self.register_buffer("mean", network.mean.permute(0, 2, 3, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone((images.float() - self.mean).permute(0, 3, 1, 2))
        outputs: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            raw = head(features)
            if isinstance(head, DeepLabV3):
                own = {"mask": self._mask(raw["logits"], head.align_corners)}
            else:
                own = head.outputs(raw, self.size)
            outputs |= with_head(name, own)
        return {name: outputs[name] for name in self.output_names}

    def _mask(self, logits: Tensor, align_corners: bool) -> Tensor:
        enlarged = F.interpolate(logits, self.size, mode="bilinear", align_corners=align_corners)
        return enlarged.permute(0, 2, 3, 1).argmax(dim=-1).to(torch.uint8)


def _convert(network: ExportNetwork, batch: int) -> bytes:
    inputs = {INPUT: network.example(batch)}
    program = torch.export.export(_ChannelsLast(network).eval(), (), inputs)
    module = program.module()
    assert isinstance(module, GraphModule)
    _keep_channels_last(module)
    _compute_constants(module)
    converted: bytes = litert_torch.convert(module, sample_kwargs=inputs).model_content()
    return converted


def _keep_channels_last(module: GraphModule) -> None:
    """Rewrites three operations in forms whose memory layout survives the conversion.

    litert-torch 0.10 transposes a map before an average that removes height and width, and around padding if other
    layers read the map too. It confuses height and width of an average that is expanded to a map.
    """
    rewrites: Mapping[Any, Callable[[Graph, Node], Node | None]] = {
        _ATEN.mean.dim: _average,
        _ATEN.expand.default: _expand,
        _ATEN.pad.default: _append_zeros,
    }
    for node in list(module.graph.nodes):
        if node.target in rewrites:
            with module.graph.inserting_before(node):
                other = rewrites[node.target](module.graph, node)
            if other is not None:
                node.replace_all_uses_with(other)
    module.graph.eliminate_dead_code()
    module.recompile()


def _average(graph: Graph, mean: Node) -> Node | None:
    arguments: tuple[Any, ...] = mean.args
    if sorted(dim % 4 for dim in arguments[1]) != [2, 3] or any(arguments[2:3]):
        return None
    kept = graph.call_function(_ATEN.mean.dim, (arguments[0], [2, 3], True))
    return graph.call_function(_ATEN.reshape.default, (kept, list(mean.meta["val"].shape)))


def _expand(graph: Graph, expand: Node) -> Node | None:
    shape = expand.meta["val"].shape
    if len(shape) != 4:
        return None
    zeros = graph.call_function(_ATEN.zeros.default, ([1, 1, *shape[2:]],))
    return graph.call_function(_ATEN.add.Tensor, (expand.args[0], zeros))


def _append_zeros(graph: Graph, pad: Node) -> Node | None:
    arguments: tuple[Any, ...] = pad.args
    source, (left, right, *others) = arguments[:2]
    if len(others) != 2 or left or others[0] or arguments[2:] or len(source.users) == 1:
        return None
    batch, channels, height, width = source.meta["val"].shape
    column = graph.call_function(_ATEN.zeros.default, ([batch, channels, height, right],))
    wider = graph.call_function(_ATEN.cat.default, ([source, column], 3))
    row = graph.call_function(_ATEN.zeros.default, ([batch, channels, others[1], width + right],))
    return graph.call_function(_ATEN.cat.default, ([wider, row], 2))


def _compute_constants(module: GraphModule) -> None:
    """Replaces values that do not depend on the images, such as anchors, by constants: LiteRT has no float64."""
    values: dict[Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            values[node] = reduce(getattr, str(node.target).split("."), module)
        elif node.op == "call_function" and all(each in values for each in node.all_input_nodes):
            assert callable(node.target)
            arguments = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*arguments[0], **arguments[1])
            if isinstance(values[node], Tensor):
                name = f"constant_{len(values)}"
                module.register_buffer(name, values[node])
                with module.graph.inserting_before(node):
                    constant = module.graph.get_attr(name)
                values[constant] = values[node]
                node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()
    module.recompile()


@contextmanager
def _silently() -> Iterator[None]:
    """Also discards what the converter writes to stderr, from Python and from C++."""
    with quietly(), redirect_stderr(io.StringIO()), silence_stderr():
        yield
