"""What inverted residual blocks need in memory, in closed form: as they are, split by channels, by rows (Section 5.1).

These forms take a block for one operation: its input stays until it returns, whether or not something still reads it.
Batch norms count as folded into the convolutions and ReLU6 as written in place. The peaks of single layers are in
elements, those of the network in bytes; weights and what a convolution needs for itself are not counted.
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

# How the image is held while the bands run: as the network's floats, as bytes, or not at all.
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
        name: Of the backbone's layer that it lies in.
        input: What it reads, without padding.
        output: What it writes.
        kernel: Its height.
        stride: Rows of the input from one row of the output to the next.
        dilation: Rows of the input from one row of the kernel to the next.
        padding: Rows of zeros above the input.
        madds: Its multiply-adds.
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
        """Itself alone."""
        return (self,)

    def rows_needed(self, rows: range) -> range:
        """Returns the rows of the input that ``rows`` of the output are made from."""
        first = rows.start * self.stride - self.padding
        last = (rows.stop - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1)
        return range(max(0, first), min(self.input.height, last + 1))


@dataclass(frozen=True, slots=True)
class Block:
    """The convolutions of one inverted residual block.

    Attributes:
        name: Of the backbone's layer.
        expand: From k to n channels; None where t is 1, so that the input is what the depthwise convolution reads.
        depthwise: On n channels, from s x s to s' x s'.
        project: From n to k' channels.
    """

    name: str
    expand: ConvLayer | None
    depthwise: ConvLayer
    project: ConvLayer

    @property
    def input(self) -> Map:
        """The bottleneck that goes in, or the image where the stem is fused in."""
        return self.depthwise.input if self.expand is None else self.expand.input

    @property
    def output(self) -> Map:
        """The bottleneck that comes out."""
        return self.project.output

    @property
    def convolutions(self) -> tuple[ConvLayer, ...]:
        """Its two or three convolutions in order."""
        return (self.depthwise, self.project) if self.expand is None else (self.expand, self.depthwise, self.project)


Layer = ConvLayer | Block


@dataclass(frozen=True, slots=True)
class BandedPeak:
    """What running the front of a network in bands of rows costs.

    Attributes:
        bytes: The most that is held at once, front and rest.
        extra_madds: Multiply-adds that come on top, for rows that two bands both need.
    """

    bytes: int
    extra_madds: int


def backbone_layers(model: VisionModel, size: tuple[int, int]) -> tuple[Layer, ...]:
    """Returns the convolutions and blocks of a MobileNetV2, in order, as they are for an input of ``size``.

    Raises:
        UserError: The backbone has no inverted residual blocks, or some that hand their expansion on.
    """
    parts = model.backbone.layers
    blocks = [part for part in parts.values() if isinstance(part, InvertedResidual)]
    if not blocks:
        kind = model.spec.backbone["name"]
        raise UserError(f"backbone.name '{kind}' has no inverted residual blocks to work out; take mobilenet_v2.")
    if any(block.hands_on_expansion for block in blocks):
        raise UserError(
            "backbone.shortcut 'expansion' leaves no block that could be worked out alone; take bottleneck or none."
        )
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
    """Takes the first convolution for the expansion of the first block, which has none, so that its output is split."""
    stem, first, *rest = layers
    assert isinstance(stem, ConvLayer)
    assert isinstance(first, Block)
    assert first.expand is None
    return (replace(first, expand=stem), *rest)


def naive_peak(layer: Layer, *, folded: bool = True) -> int:
    """Returns the elements that a layer needs when it is run one convolution after the other.

    Args:
        layer: One of :func:`backbone_layers`.
        folded: Whether batch norms are folded; else each writes a second tensor beside the convolution's.
    """
    copies = 1 if folded else 2
    kept, output = layer.input.elements, layer.output.elements
    if isinstance(layer, ConvLayer):
        return max(kept + output, copies * output)
    expanded = 0 if layer.expand is None else layer.expand.output.elements
    filtered = layer.depthwise.output.elements
    return kept + max(copies * expanded, expanded + filtered, copies * filtered, filtered + output, copies * output)


def split_peak(layer: Layer, parts: int) -> int:
    """Returns the elements that a layer needs when its inner channels are run in parts: F = sum of A_i N B_i.

    Input and output are held, and of the expanded and the filtered map a slice of ceil(n / parts) channels each.

    Args:
        layer: One of :func:`backbone_layers`; a convolution is not split.
        parts: t, from 1, which splits nothing; n or more is one channel at a time.
    """
    if isinstance(layer, ConvLayer) or parts == 1:
        return naive_peak(layer)
    pixels = layer.depthwise.output.pixels
    if layer.expand is not None:
        pixels += layer.expand.output.pixels
    return layer.input.elements + layer.output.elements + pixels * _slice(layer, parts)


def bottleneck_bound(layer: Layer, parts: int) -> int:
    """Returns the paper's bound in elements: |s^2 k| + |s'^2 k'| + max(s^2, s'^2) ceil(n / parts).

    Of the two inner maps it counts the larger one only. See :func:`split_peak` for the arguments.
    """
    ends = layer.input.elements + layer.output.elements
    if isinstance(layer, ConvLayer):
        return ends
    return ends + max(layer.depthwise.input.pixels, layer.depthwise.output.pixels) * _slice(layer, parts)


def network_peak(layers: Sequence[Layer], of_layer: Callable[[Layer], int]) -> int:
    """Returns the bytes that the layer with the greatest need has, in 32-bit floats; ``of_layer`` gives elements."""
    return FLOAT_BYTES * max(map(of_layer, layers))


def banded_peak(
    layers: Sequence[Layer], *, blocks: int, bands: int, parts: int, image: ImageKept = "fp32"
) -> BandedPeak:
    """Works out a network whose front runs in bands of rows, and whose blocks all run in parts.

    For each band the first convolution and the first blocks run on the rows that the band is made from; only the last
    of these blocks writes its output as a whole. The rows at a band's border are worked out for both neighbors.

    Args:
        layers: From :func:`backbone_layers`.
        blocks: How many blocks belong to the front, J.
        bands: How many bands the output of the front is cut into.
        parts: See :func:`split_peak`.
        image: How the image is held. As bytes or streamed, the band's rows are turned to floats when it begins.

    Raises:
        UserError: There are fewer blocks, or fewer rows than bands.
    """
    if not 1 <= blocks < len(layers) or not isinstance(layers[blocks], Block):
        there = sum(isinstance(layer, Block) for layer in layers)
        raise UserError(f"blocks must be from 1 to {there}, the number of blocks of the backbone, got {blocks}.")
    front, rest = layers[: blocks + 1], layers[blocks + 1 :]
    whole = front[-1].output
    if not 1 <= bands <= whole.height:
        raise UserError(f"bands must be from 1 to {whole.height}, the rows behind block {blocks}, got {bands}.")
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
    """The layers of the front with the rows that a band has; a map that is held whole has none, as it counts once."""
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
    """The convolution of an operation that reads ``current``, which may have been padded before."""
    how, image, weight = operation.convolution, operation.shapes[0], operation.shapes[1]
    assert how is not None
    padding = how.padding[0] + (image[2] - current.height) // 2
    output = Map(*operation.output_shape[1:])
    return ConvLayer(
        name, current, output, weight[2], how.stride[0], how.dilation[0], padding, multiply_adds(operation)
    )
