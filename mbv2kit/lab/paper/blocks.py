"""Closed forms for the memory of inverted residual blocks: whole, split by channels, split by rows (Section 5.1).

They treat a block as one operation whose input is held until it returns. Batch norms are folded into the convolutions,
and ReLU6 works in place. Peaks of single layers are in elements, peaks of the network in bytes. Weights and the
workspace of convolutions do not count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from mbv2kit.analysis.complexity import multiply_adds
from mbv2kit.analysis.graph import Operation, trace
from mbv2kit.errors import UserError
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import InvertedResidual

FLOAT_BYTES = 4

# How the image is held while the bands run: as floats, as bytes, or not at all.
ImageKept = Literal["fp32", "uint8", "streamed"]
_IMAGE_BYTES: dict[ImageKept, int] = {"fp32": FLOAT_BYTES, "uint8": 1, "streamed": 0}


@dataclass(frozen=True, slots=True)
class Map:
    """A feature map of one image."""

    channels: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    @property
    def elements(self) -> int:
        """All values."""
        return self.channels * self.pixels


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """One convolution of the backbone.

    Attributes:
        name: Name of the backbone's layer that contains it.
        input: Input map, without padding.
        output: Output map.
        kernel: Height of the kernel.
        stride: Input rows from one output row to the next.
        dilation: Input rows from one kernel row to the next.
        padding: Rows of zeros above the input.
        madds: Multiply-adds.
    """

    name: str
    input: Map
    output: Map
    kernel: int
    stride: int
    dilation: int
    padding: int
    madds: int

    @property
    def convolutions(self) -> "tuple[ConvLayer, ...]":
        """The convolution itself."""
        return (self,)

    def rows_needed(self, rows: range) -> range:
        """Returns the input rows that the output's ``rows`` depend on."""
        first = rows.start * self.stride - self.padding
        last = (rows.stop - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1)
        return range(max(0, first), min(self.input.height, last + 1))


@dataclass(frozen=True, slots=True)
class Block:
    """The convolutions of one inverted residual block.

    Attributes:
        name: Name of the backbone's layer.
        expand: Expansion from k to n channels; None if t is 1.
        depthwise: Depthwise convolution on n channels, from s x s to s' x s'.
        project: Projection from n to k' channels.
    """

    name: str
    expand: ConvLayer | None
    depthwise: ConvLayer
    project: ConvLayer

    @property
    def input(self) -> Map:
        """The input: a bottleneck, or the image if the stem is fused in."""
        return self.depthwise.input if self.expand is None else self.expand.input

    @property
    def output(self) -> Map:
        """The output bottleneck."""
        return self.project.output

    @property
    def convolutions(self) -> tuple[ConvLayer, ...]:
        """The two or three convolutions in order."""
        return (self.depthwise, self.project) if self.expand is None else (self.expand, self.depthwise, self.project)


Layer = ConvLayer | Block


@dataclass(frozen=True, slots=True)
class BandedPeak:
    """Cost of running the front of a network in bands of rows.

    Attributes:
        bytes: Peak memory of the whole network.
        extra_madds: Additional multiply-adds for rows that two bands share.
    """

    bytes: int
    extra_madds: int


def backbone_layers(model: VisionModel, size: tuple[int, int]) -> tuple[Layer, ...]:
    """Returns the convolutions and blocks of a MobileNetV2 in order, for an input of (height, width) ``size``.

    Raises:
        UserError: The backbone has no inverted residual blocks, or its blocks pass their expansion on.
    """
    parts = model.backbone.layers
    blocks = [part for part in parts.values() if isinstance(part, InvertedResidual)]
    if not blocks:
        kind = model.spec.backbone["name"]
        raise UserError(f"Backbone '{kind}' has no inverted residual blocks; use mobilenet_v2.")
    if any(block.hands_on_expansion for block in blocks):
        raise UserError("With shortcut 'expansion' a block depends on the wide map of another; use bottleneck or none.")
    operations = [operation for operation in trace(model, size).operations if operation.convolution is not None]
    layers: list[Layer] = []
    current = Map(3, *size)
    for name, part in parts.items():
        inside = [operation for operation in operations if operation.module.startswith(f"backbone.layers.{name}.")]
        convolutions = []
        for operation in inside:
            convolutions.append(_conv_layer(name, operation, current))
            current = convolutions[-1].output
        layers += [_block(convolutions)] if isinstance(part, InvertedResidual) else convolutions
    return tuple(layers)


def fuse_stem(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Makes the first convolution the expansion of the first block, which has none, so that its output can be split."""
    stem, first, *rest = layers
    assert isinstance(stem, ConvLayer)
    assert isinstance(first, Block)
    assert first.expand is None
    return (replace(first, expand=stem), *rest)


def naive_peak(layer: Layer, *, folded: bool = True) -> int:
    """Returns the peak elements of a layer that runs one convolution after the other.

    Args:
        layer: One of :func:`backbone_layers`.
        folded: Whether batch norms are folded; otherwise each writes a tensor of its own.
    """
    copies = 1 if folded else 2
    kept, output = layer.input.elements, layer.output.elements
    if isinstance(layer, ConvLayer):
        return max(kept + output, copies * output)
    expanded = 0 if layer.expand is None else layer.expand.output.elements
    filtered = layer.depthwise.output.elements
    return kept + max(copies * expanded, expanded + filtered, copies * filtered, filtered + output, copies * output)


def split_peak(layer: Layer, parts: int) -> int:
    """Returns the peak elements of a layer whose inner channels run in parts: F = sum of A_i N B_i.

    The input and output are held whole, the expanded and the filtered map in slices of ceil(n / parts) channels.

    Args:
        layer: One of :func:`backbone_layers`; a convolution is not split.
        parts: t, at least 1 (not split); n or more runs one channel at a time.
    """
    if isinstance(layer, ConvLayer) or parts == 1:
        return naive_peak(layer)
    pixels = layer.depthwise.output.pixels
    if layer.expand is not None:
        pixels += layer.expand.output.pixels
    return layer.input.elements + layer.output.elements + pixels * _slice(layer, parts)


def bottleneck_bound(layer: Layer, parts: int) -> int:
    """Returns the paper's bound in elements: |s^2 k| + |s'^2 k'| + max(s^2, s'^2) ceil(n / parts).

    It counts only the larger of the two inner maps. See :func:`split_peak` for the arguments.
    """
    ends = layer.input.elements + layer.output.elements
    if isinstance(layer, ConvLayer):
        return ends
    return ends + max(layer.depthwise.input.pixels, layer.depthwise.output.pixels) * _slice(layer, parts)


def network_peak(layers: Sequence[Layer], of_layer: Callable[[Layer], int]) -> int:
    """Returns the largest peak of all layers in bytes of 32-bit floats; ``of_layer`` returns a layer's elements."""
    return FLOAT_BYTES * max(map(of_layer, layers))


def banded_peak(
    layers: Sequence[Layer], *, blocks: int, bands: int, parts: int, image: ImageKept = "fp32"
) -> BandedPeak:
    """Returns the cost of a network whose front runs in bands of rows and whose blocks all run in parts.

    For each band the first convolution and the first blocks run on the rows that the band depends on; only the output
    of the last of these blocks is held whole. Rows at the border of two bands are computed twice.

    Args:
        layers: Layers of :func:`backbone_layers`.
        blocks: Number of blocks in the front, J.
        bands: Number of bands of the front's output.
        parts: See :func:`split_peak`.
        image: How the image is held; as bytes or streamed, each band first converts its rows to floats.

    Raises:
        UserError: There are fewer blocks, or fewer rows than bands.
    """
    if not 1 <= blocks < len(layers) or not isinstance(layers[blocks], Block):
        there = sum(isinstance(layer, Block) for layer in layers)
        raise UserError(f"blocks must be from 1 to {there}, the number of blocks in the backbone, got {blocks}.")
    front, rest = layers[: blocks + 1], layers[blocks + 1 :]
    whole = front[-1].output
    if not 1 <= bands <= whole.height:
        raise UserError(f"bands must be from 1 to {whole.height}, the output rows of block {blocks}, got {bands}.")
    peak = madds = 0
    for band in range(bands):
        rows = range(band * whole.height // bands, (band + 1) * whole.height // bands)
        pieces = _band(front, rows, image_is_there=image == "fp32")
        peak = max(peak, *(split_peak(piece, parts) for piece in pieces))
        madds += _madds(pieces)
    image_bytes = _IMAGE_BYTES[image] * front[0].input.elements
    held = image_bytes + FLOAT_BYTES * (whole.elements + peak)
    if rest:
        held = max(held, network_peak(rest, lambda layer: split_peak(layer, parts)))
    return BandedPeak(held, madds - _madds(front))


def _band(front: Sequence[Layer], rows: range, *, image_is_there: bool) -> list[Layer]:
    """Returns the front's layers with the rows of one band; maps that are held whole get none, as they count once."""
    pieces: list[Layer] = []
    for layer in reversed(front):
        convolutions: list[ConvLayer] = []
        for convolution in reversed(layer.convolutions):
            needed = convolution.rows_needed(rows)
            is_first, is_last = convolution is front[0], convolution is front[-1].convolutions[-1]
            piece = replace(
                convolution,
                input=replace(convolution.input, height=0 if is_first and image_is_there else len(needed)),
                output=replace(convolution.output, height=0 if is_last else len(rows)),
                madds=convolution.madds // convolution.output.height * len(rows),
            )
            convolutions.insert(0, piece)
            rows = needed
        pieces += [_block(convolutions)] if isinstance(layer, Block) else convolutions
    return pieces


def _block(convolutions: Sequence[ConvLayer]) -> Block:
    *expand, depthwise, project = convolutions
    return Block(project.name, expand[0] if expand else None, depthwise, project)


def _madds(layers: Sequence[Layer]) -> int:
    return sum(convolution.madds for layer in layers for convolution in layer.convolutions)


def _slice(block: Block, parts: int) -> int:
    return ceil(block.depthwise.output.channels / parts)


def _conv_layer(name: str, operation: Operation, current: Map) -> ConvLayer:
    """Returns the convolution of an operation that reads ``current``, padded or not."""
    how, image, weight = operation.convolution, operation.shapes[0], operation.shapes[1]
    assert how is not None
    padding = how.padding[0] + (image[2] - current.height) // 2
    output = Map(*operation.output_shape[1:])
    return ConvLayer(
        name, current, output, weight[2], how.stride[0], how.dilation[0], padding, multiply_adds(operation)
    )
