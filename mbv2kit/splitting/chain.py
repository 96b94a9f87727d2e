"""MobileNetV2 as a chain of bottleneck blocks that can be split."""

from dataclasses import dataclass
from functools import cached_property

from mbv2kit.backbones import Backbone
from mbv2kit.errors import UserError
from mbv2kit.heads.classifier import Classifier
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, InvertedResidual
from mbv2kit.splitting.window import Window


# Plans read the properties a hundred thousand times, so each is computed once.
@dataclass(frozen=True, eq=False)
class BlockSpec:
    """One bottleneck block on an input of a fixed size: expansion, depthwise convolution and projection.

    The first block has no expansion of its own; the network's first convolution takes that place. The depthwise
    convolution behind it works channel by channel, so the pair can be split like any other block (as in Table 3).

    Attributes:
        name: Name of its output map.
        expand: Expansion: 1x1, or 3x3 in the first block.
        depthwise: Depthwise convolution on the wide map.
        project: 1x1 projection to the output channels.
        rows: Vertical windows of the expansion and the depthwise convolution.
        columns: Horizontal windows of the same two.
        adds_input: Whether the block has a shortcut.
        read: Whether a head reads the output.
        read_expansion: Whether a head reads the wide map, which must then be held as a whole.
        first: Whether the input is the image.
    """

    name: str
    expand: ConvNormAct
    depthwise: ConvNormAct
    project: ConvNormAct
    rows: tuple[Window, Window]
    columns: tuple[Window, Window]
    adds_input: bool
    read: bool
    read_expansion: bool
    first: bool

    @cached_property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.expand.conv.in_channels

    @cached_property
    def wide_channels(self) -> int:
        """Channels of the wide map."""
        return self.expand.conv.out_channels

    @cached_property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.project.conv.out_channels

    @cached_property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.rows[1].output, self.columns[1].output

    def needed(self, rows: range) -> range:
        """Returns the input rows that the output's ``rows`` depend on."""
        return self.rows[0].needed(self.rows[1].needed(rows))

    def madds(self, rows: range) -> int:
        """Returns the multiply-adds for output ``rows``, including all rows of the wide map that they depend on."""
        wide = len(self.rows[1].needed(rows)) * self.columns[0].output
        deep = len(rows) * self.columns[1].output
        return wide * self._expand_weights + deep * self._deep_weights

    @cached_property
    def _expand_weights(self) -> int:
        return self.expand.conv.weight.numel()

    @cached_property
    def _deep_weights(self) -> int:
        return self.depthwise.conv.weight.numel() + self.project.conv.weight.numel()


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The parts of a model that run in little memory, in order.

    Attributes:
        blocks: The bottleneck blocks.
        last: Name and layer of the last convolution; None if no head reads it.
        pools: Whether the heads read nothing of the last map but its mean over each channel.
    """

    blocks: tuple[BlockSpec, ...]
    last: tuple[str, ConvNormAct] | None
    pools: bool


def find_chain(model: VisionModel, size: tuple[int, int]) -> Chain:
    """Splits a model into its chain of blocks.

    Args:
        model: A MobileNetV2 on any device.
        size: Height and width of the input.

    Raises:
        UserError: The network cannot be split.
    """
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    names = list(backbone.layers)
    layers = list(backbone.layers.values())
    name = model.spec.backbone["name"]
    if len(layers) < 2 or not isinstance(layers[0], ConvNormAct) or not isinstance(layers[1], InvertedResidual):
        raise UserError(f"Only mobilenet_v2 can run within a memory budget; the model's backbone is {name}.")
    if any(isinstance(layer, InvertedResidual) and layer.hands_on_expansion for layer in layers):
        raise UserError("A backbone with shortcut 'expansion' cannot be split: it keeps its wide maps.")
    if names[0] in backbone.selected:
        raise UserError(f"A head reads {names[0]}, a map that a split network never holds as a whole.")
    blocks: list[BlockSpec] = []
    rows, columns = size
    for label, layer in zip(names[1:], layers[1:], strict=True):
        if not isinstance(layer, InvertedResidual):
            break
        expand = layer.expand if blocks else layers[0]
        assert isinstance(expand, ConvNormAct)
        windows = []
        for side in (rows, columns):
            outer = Window.of(expand.conv, side)
            windows.append((outer, Window.of(layer.depthwise.conv, outer.output)))
        block = BlockSpec(
            name=label,
            expand=expand,
            depthwise=layer.depthwise,
            project=layer.project,
            rows=windows[0],
            columns=windows[1],
            adds_input=layer.adds_input,
            read=label in backbone.selected,
            read_expansion=f"{label}_expansion" in backbone.selected,
            first=not blocks,
        )
        blocks.append(block)
        rows, columns = block.output_size
    last = layers[-1]
    if not isinstance(last, ConvNormAct):
        return Chain(tuple(blocks), None, False)
    readers = [head for head in model.heads.values() if names[-1] in head.features]
    # A subclass of Classifier may read more than the mean.
    return Chain(tuple(blocks), (names[-1], last), all(type(head) is Classifier for head in readers))


def has_relu6(layer: ConvNormAct) -> bool:
    """Returns whether a ReLU6 follows the convolution."""
    return hasattr(layer, "act")
