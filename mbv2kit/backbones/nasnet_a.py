"""Learning Transferable Architectures for Scalable Image Recognition. Zoph et al., 2017, arXiv 1707.07012."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.backbones.registry import BACKBONES, Backbone
from mbv2kit.errors import UserError
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import Conv2d, ConvStyle, NormOptions, Padding, initialize
from mbv2kit.schema.rules import between

# An operation and the state that it reads. State 0 is the output of the previous cell, 1 that of the cell before it.
Step = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A cell of Figure 4.

    Attributes:
        stride: Stride of every operation that reads state 0 or 1.
        blocks: Two steps each, whose sum is the next state: 2, 3, 4, 5 and 6.
        joined: The states that are concatenated to the output.
    """

    stride: int
    blocks: tuple[tuple[Step, Step], ...]
    joined: tuple[int, ...]


NORMAL_CELL = Recipe(
    stride=1,
    blocks=(
        (("separable_5", 0), ("separable_3", 1)),
        (("separable_5", 1), ("separable_3", 1)),
        (("average_3", 0), ("identity", 1)),
        (("average_3", 1), ("average_3", 1)),
        (("separable_3", 0), ("identity", 0)),
    ),
    joined=(1, 2, 3, 4, 5, 6),
)
REDUCTION_CELL = Recipe(
    stride=2,
    blocks=(
        (("separable_5", 0), ("separable_7", 1)),
        (("max_3", 0), ("separable_7", 1)),
        (("average_3", 0), ("separable_5", 1)),
        (("identity", 3), ("average_3", 2)),
        (("separable_3", 2), ("max_3", 0)),
    ),
    joined=(3, 4, 5, 6),
)
STEM_CHANNELS = 32
STEM_KERNEL = 3
STAGES = 3
# The last normal cell concatenates six states, with four times the filters of the first.
LAST_BY_FIRST = 24
# The first cell has a quarter of these filters, and needs at least one.
LEAST_FILTERS = 4


@BACKBONES.register("nasnet_a")
class NASNetA(Backbone):
    """NASNet-A without its classifiers, by default the mobile one, 4 @ 1056; each cell is a feature map.

    ``conv`` is the first convolution, ``stem_cell_1`` and ``stem_cell_2`` are the reduction cells after it, ``cell_1``
    and so on the normal cells, ``reduction_cell_1`` and ``reduction_cell_2`` the cells between their three stages
    (Figure 2). A cell begins with a ReLU and ends without one, so only the last map has a ReLU.

    The first convolution is not padded: a map has ``ceil((H - 2) / stride)`` rows instead of ``ceil(H / stride)`` in
    other backbones. Both are equal at multiples of the stride, except for ``conv``, which has one row less. An input
    needs at least 3 pixels a side.

    Args:
        cells: Number of normal cells in each stage, the paper's N.
        penultimate_filters: Channels of the last map, which are part of the networks' names in the paper: a multiple of
            24, at least 96. The first convolution always has 32.
        padding: ``symmetric``, or ``tf_same`` for weights that come from TensorFlow.
        norm: How batch normalization computes; TensorFlow's code has a ``norm_momentum`` of 0.0003.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        cells: Annotated[int, between(1, 100)] = 4,
        penultimate_filters: Annotated[int, between(96, 24_000)] = 1056,
        padding: Padding = "symmetric",
        norm: NormOptions = NormOptions(norm_eps=1e-3, norm_momentum=0.03),
    ) -> None:
        super().__init__()
        filters, rest = divmod(penultimate_filters, LAST_BY_FIRST)
        if rest:
            raise UserError(f"penultimate_filters must be a multiple of {LAST_BY_FIRST}, got {penultimate_filters}.")
        style = ConvStyle(padding, norm)
        first = nn.Sequential()
        first.conv = nn.Conv2d(3, STEM_CHANNELS, STEM_KERNEL, stride=2, bias=False)
        first.norm = style.norm(STEM_CHANNELS)
        self.layers = nn.ModuleDict({"conv": first})
        features = [FeatureInfo("conv", STEM_CHANNELS, 2)]
        plan = list(_plan(cells, filters))
        for number, (name, recipe, channels) in enumerate(plan, start=1):
            current = features[-1]
            previous = features[-2] if number > 1 else None
            self.layers[name] = Cell(recipe, current, previous, channels, style, activation=number == len(plan))
            features.append(FeatureInfo(name, channels * len(recipe.joined), current.stride * recipe.stride))
        self.feature_info = tuple(features)
        self.selected = tuple(self.layers)
        initialize(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the selected maps of normalized images ``(B, 3, H, W)``; see the class for their sizes.

        Raises:
            UserError: An image is smaller than the first convolution, which is not padded.
        """
        height, width = images.shape[2:]
        if min(height, width) < STEM_KERNEL:
            raise UserError(
                f"backbone 'nasnet_a' needs inputs of at least {STEM_KERNEL} x {STEM_KERNEL} pixels, got {height} x "
                f"{width}; choose a larger input.size."
            )
        maps: dict[str, Tensor] = {}
        # The first cell has only one map before it, which it uses for both.
        current = previous = self.layers["conv"](images)
        for name, layer in self.layers.items():
            if isinstance(layer, Cell):
                previous, current = current, layer(current, previous)
            if name in self.selected:
                maps[name] = current
        return maps


def _plan(cells: int, filters: int) -> Iterator[tuple[str, Recipe, int]]:
    """Yields name, recipe and filters of every cell in order (Figure 2, right); a reduction doubles the filters."""
    yield "stem_cell_1", REDUCTION_CELL, filters // 4
    yield "stem_cell_2", REDUCTION_CELL, filters // 2
    for stage in range(STAGES):
        if stage > 0:
            yield f"reduction_cell_{stage}", REDUCTION_CELL, filters * 2**stage
        for number in range(stage * cells, (stage + 1) * cells):
            yield f"cell_{number + 1}", NORMAL_CELL, filters * 2**stage


class Cell(nn.Module):
    """One cell: the two previous maps, projected to its number of filters, and five blocks on them.

    Args:
        recipe: Operations of the blocks.
        current: The map before the cell.
        previous: The map before that one; the first cell has none and uses ``current`` unchanged instead.
        channels: Filters of every operation.
        style: Options of all convolutions.
        activation: Whether the output goes through a ReLU.
    """

    def __init__(
        self,
        recipe: Recipe,
        current: FeatureInfo,
        previous: FeatureInfo | None,
        channels: int,
        style: ConvStyle,
        *,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.current = _pointwise(current.channels, channels, style)
        self.previous: nn.Module = nn.Identity()
        if previous is not None:
            # The map before the previous one is larger only if the previous cell is a reduction.
            fit = _pointwise if previous.stride == current.stride else Halving
            self.previous = fit(previous.channels, channels, style)
        widths = [channels, current.channels if previous is None else channels] + [channels] * len(recipe.blocks)
        self.steps = nn.ModuleList()
        for block in recipe.blocks:
            for kind, state in block:
                stride = recipe.stride if state in (0, 1) else 1
                self.steps.append(_operation(kind, widths[state], channels, stride, style))
        self.act = nn.ReLU(inplace=True) if activation else nn.Identity()

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        """Runs the blocks.

        Args:
            current: Output of the previous cell, ``(B, C, H, W)``.
            previous: Output of the cell before it.

        Returns:
            ``(B, len(joined) * channels, ceil(H / stride), ceil(W / stride))``.
        """
        states = [self.current(current), self.previous(previous)]
        steps = iter(self.steps)
        for (_, left), (_, right) in self.recipe.blocks:
            states.append(next(steps)(states[left]) + next(steps)(states[right]))
        output: Tensor = self.act(torch.cat([states[state] for state in self.recipe.joined], dim=1))
        return output


class Halving(nn.Module):
    """ReLU, a map of half the size from two strided 1 x 1 convolutions of half the filters each, and norm.

    The second one is shifted by one pixel to the right and down, so that both together read half of the pixels.

    ``(B, in_channels, H, W) -> (B, out_channels, ceil(H / 2), ceil(W / 2))``.
    """

    def __init__(self, in_channels: int, out_channels: int, style: ConvStyle) -> None:
        super().__init__()
        half = out_channels // 2
        self.near = Conv2d(in_channels, half, 1, stride=2)
        self.far = Conv2d(in_channels, out_channels - half, 1, stride=2)
        self.norm = style.norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Halves ``(B, in_channels, H, W)``."""
        x = x.relu()
        output: Tensor = self.norm(torch.cat([self.near(x), self.far(F.pad(x, (-1, 1, -1, 1)))], dim=1))
        return output


class Pool(nn.Module):
    """A 3 x 3 pooling of the maximum or the average, which ignores everything outside the map.

    ``(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(self, maximum: bool, stride: int, padding: Padding) -> None:
        super().__init__()
        self.maximum = maximum
        self.stride = stride
        # Both kinds of padding differ only with a stride.
        self.same = padding == "tf_same" and stride > 1

    def forward(self, x: Tensor) -> Tensor:
        """Pools ``(B, C, H, W)``."""
        # Along an even side SAME adds only one pixel, at the end: the last window is incomplete.
        around = (x.shape[2] % 2, x.shape[3] % 2) if self.same else (1, 1)
        if self.maximum:
            return F.max_pool2d(x, 3, self.stride, around, ceil_mode=self.same)
        return F.avg_pool2d(x, 3, self.stride, around, ceil_mode=self.same, count_include_pad=False)


def _operation(kind: str, in_channels: int, channels: int, stride: int, style: ConvStyle) -> nn.Module:
    if kind == "identity":
        return nn.Identity()
    name, kernel = kind.split("_")
    if name == "separable":
        return _separable_twice(in_channels, channels, int(kernel), stride, style)
    return Pool(name == "max", stride, style.padding)


def _pointwise(in_channels: int, channels: int, style: ConvStyle) -> nn.Sequential:
    # The input is also a feature map and input of the next cell, so not even a ReLU may change it in place.
    return nn.Sequential(nn.ReLU(), Conv2d(in_channels, channels, 1), style.norm(channels))


def _separable_twice(in_channels: int, channels: int, kernel: int, stride: int, style: ConvStyle) -> nn.Sequential:
    """Twice ReLU, depthwise convolution, 1 x 1 convolution and norm; the first depthwise one has the stride."""
    return nn.Sequential(
        # Other operations of the cell read the same state, so the ReLU must not change it in place.
        nn.ReLU(),
        Conv2d(in_channels, in_channels, kernel, stride=stride, groups=in_channels, padding=style.padding),
        Conv2d(in_channels, channels, 1),
        style.norm(channels),
        nn.ReLU(inplace=True),
        Conv2d(channels, channels, kernel, groups=channels, padding=style.padding),
        Conv2d(channels, channels, 1),
        style.norm(channels),
    )
