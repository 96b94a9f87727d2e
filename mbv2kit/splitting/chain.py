"""MobileNetV2 as a chain of bottleneck blocks that can be split, each with its two windows over the map."""

from dataclasses import dataclass

from mbv2kit.backbones import Backbone
from mbv2kit.errors import UserError
from mbv2kit.heads import Head
from mbv2kit.heads.classifier import Classifier
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, InvertedResidual
from mbv2kit.splitting.rows import Window


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One bottleneck block: expansion, depthwise convolution and projection, of one input map.

    The first convolution of the network is the expansion of the first block, which has none of its own: channel by
    channel the depthwise convolution behind it needs no more (Table 3 of the paper counts so).

    Attributes:
        name: Of the map that it gives.
        expand: Of kernel 1, or 3 in the first unit.
        depthwise: Of the wide map.
        project: Back to few channels.
        rows: Windows of expansion and depthwise convolution from top to bottom.
        columns: The same from left to right.
        adds_input: Whether its input is added to its output.
        read: Whether a head reads its output.
        read_expansion: Whether a head reads its wide map, which then must be there as a whole.
        first: Whether its input is the image.
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

    @property
    def in_channels(self) -> int:
        """Channels of the bottleneck that goes in."""
        return self.expand.conv.in_channels

    @property
    def wide_channels(self) -> int:
        """Channels of the wide map."""
        return self.expand.conv.out_channels

    @property
    def out_channels(self) -> int:
        """Channels of the bottleneck that comes out."""
        return self.project.conv.out_channels

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.rows[1].output, self.columns[1].output

    def needed(self, rows: range) -> range:
        """Returns the rows of the input that the output's ``rows`` look at."""
        return self.rows[0].needed(self.rows[1].needed(rows))

    def madds(self, rows: range) -> int:
        """Multiply-adds of the output's ``rows``, with all rows of the wide map that they look at."""
        expand, depthwise, project = (part.conv for part in (self.expand, self.depthwise, self.project))
        wide = len(self.rows[1].needed(rows)) * self.columns[0].output
        deep = len(rows) * self.columns[1].output
        return wide * expand.weight.numel() + deep * (depthwise.weight.numel() + project.weight.numel())


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A model as the executor runs it.

    Attributes:
        units: The bottleneck blocks.
        last: The last convolution with its name, where a head reads it.
        pools: Whether all that is read of the last map is its mean over each channel.
    """

    units: tuple[Unit, ...]
    last: tuple[str, ConvNormAct] | None
    pools: bool


def find_chain(model: VisionModel, size: tuple[int, int]) -> Chain:
    """Takes a model apart.

    Args:
        model: On any device.
        size: Height and width of its input.

    Raises:
        UserError: The network is none that can be split.
    """
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    names = list(backbone.layers)
    layers = list(backbone.layers.values())
    name = model.spec.backbone["name"]
    if len(layers) < 2 or not isinstance(layers[0], ConvNormAct) or not isinstance(layers[1], InvertedResidual):
        raise UserError(f"Only mobilenet_v2 can run in little memory, the model's backbone is {name}.")
    if any(isinstance(layer, InvertedResidual) and layer.hands_on_expansion for layer in layers):
        raise UserError("A network with backbone.shortcut=expansion keeps its wide maps, so that none can be split.")
    if names[0] in backbone.selected:
        raise UserError(f"A head reads {names[0]}, which is never there as a whole in a network that is split.")
    units: list[Unit] = []
    rows, columns = size
    for label, layer in zip(names[1:], layers[1:], strict=True):
        if not isinstance(layer, InvertedResidual):
            break
        expand = layer.expand if units else layers[0]
        assert isinstance(expand, ConvNormAct)
        windows = []
        for side in (rows, columns):
            outer = Window.of(expand.conv, side)
            windows.append((outer, Window.of(layer.depthwise.conv, outer.output)))
        unit = Unit(
            name=label,
            expand=expand,
            depthwise=layer.depthwise,
            project=layer.project,
            rows=windows[0],
            columns=windows[1],
            adds_input=layer.adds_input,
            read=label in backbone.selected,
            read_expansion=f"{label}_expansion" in backbone.selected,
            first=not units,
        )
        units.append(unit)
        rows, columns = unit.output_size
    last = layers[-1]
    if not isinstance(last, ConvNormAct):
        return Chain(tuple(units), None, False)
    readers = [head for head in model.heads.values() if isinstance(head, Head) and names[-1] in head.features]
    # A subclass may look at more than the mean.
    return Chain(tuple(units), (names[-1], last), all(type(head) is Classifier for head in readers))


def relu6_behind(part: ConvNormAct) -> bool:
    """Tells whether a convolution has a non-linearity behind it."""
    return hasattr(part, "act")
