"""ShuffleNet: An Extremely Efficient CNN for Mobile Devices. Zhang et al., 2017, arXiv 1707.01083."""

from math import ceil
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.backbones.registry import BACKBONES, Backbone, Width
from mbv2kit.backbones.strides import Strides
from mbv2kit.errors import UserError
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import ConvNormAct, ConvStyle, NormOptions, initialize
from mbv2kit.schema.rules import Channels, Stride, among

# Table 1: channels of stage 2 for each number of groups, doubled in stages 3 and 4; and the units of the three stages.
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
UNITS = (4, 8, 4)
# Channels of the first convolution at widths below 1, from 1 to 2, and from 2 on. Table 1 has the one for 1; the others
# reproduce the costs of Table 2 (38 and 13 million at 0.5 and 0.25) and the published 524 million of 2 x.
STEM_CHANNELS = (12, 24, 48)
# A unit's bottleneck has a quarter of its channels (section 3.2).
BOTTLENECK_SHARE = 4


class AveragePool(nn.Module):
    """The mean of 3 x 3 pixels, with zeros outside the map and with dilation, which torch's pooling lacks.

    ``(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))``; stride or dilation is 1.
    """

    def __init__(self, stride: int, dilation: int) -> None:
        super().__init__()
        self.stride = stride
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Averages ``(B, C, H, W)``."""
        if self.dilation == 1:
            return F.avg_pool2d(x, 3, self.stride, padding=1)
        step = self.dilation
        padded = F.pad(x, (step, step, step, step))
        rows = padded[:, :, : -2 * step] + padded[:, :, step:-step] + padded[:, :, 2 * step :]
        return (rows[..., : -2 * step] + rows[..., step:-step] + rows[..., 2 * step :]) / 9


class ShuffleUnit(nn.Module):
    """A unit of Figure 2: 1 x 1 group convolution, channel shuffle, 3 x 3 depthwise, 1 x 1 group convolution.

    The input is added to the result (b). The first unit of a stage concatenates the result with the average pooling of
    the input (c).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        groups: Groups of both 1 x 1 convolutions and of the shuffle.
        grouped_input: Whether the first 1 x 1 convolution has groups; that of the first unit has none, because its
            input is small.
        stride: Stride of the depthwise convolution and of the pooling.
        dilation: Dilation of the depthwise convolution and of the pooling.
        style: Options of the three convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        grouped_input: bool,
        stride: int,
        dilation: int,
        style: ConvStyle,
    ) -> None:
        super().__init__()
        narrow = out_channels // BOTTLENECK_SHARE
        added = in_channels == out_channels
        branch_channels = out_channels if added else out_channels - in_channels
        self.compress = ConvNormAct(in_channels, narrow, 1, style=style, groups=groups if grouped_input else 1)
        self.shuffle = nn.ChannelShuffle(groups)
        self.depthwise = ConvNormAct(
            narrow, narrow, 3, style=style, stride=stride, dilation=dilation, groups=narrow, activation=False
        )
        self.expand = ConvNormAct(narrow, branch_channels, 1, style=style, groups=groups, activation=False)
        self.pool = None if added else AveragePool(stride, dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``."""
        branch = self.expand(self.depthwise(self.shuffle(self.compress(x))))
        return F.relu(x + branch if self.pool is None else torch.cat([self.pool(x), branch], dim=1))


@BACKBONES.register("shufflenet_v1")
class ShuffleNetV1(Backbone):
    """The network of Table 1 without its classifier: 18 feature maps.

    ``conv_1`` and ``pool_1`` are the first convolution and the max pooling, ``stage_2_1`` to ``stage_2_4``,
    ``stage_3_1`` to ``stage_3_8`` and ``stage_4_1`` to ``stage_4_4`` the units of the three stages.

    Args:
        width: The scale s of "ShuffleNet s x", a factor on the channels of all units; the paper uses 0.25 to 2.
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32. Below 32, strides become dilation.
        groups: Groups of the 1 x 1 convolutions: 1, 2, 3, 4 or 8. More groups have more channels at a similar cost.
        stem_channels: Channels of the first convolution, a multiple of ``groups``. null: 12 at widths below 1 (16 with
            8 groups), 48 from 2 on, and 24 between.
        norm: How batch normalization computes.

    Raises:
        UserError: An argument is out of range, or the groups do not divide the channels.
    """

    def __init__(
        self,
        width: Width = 1.0,
        output_stride: Stride = 32,
        groups: Annotated[int, among(1, 2, 3, 4, 8)] = 3,
        stem_channels: Channels | None = None,
        norm: NormOptions = NormOptions(norm_eps=1e-5, norm_momentum=0.03),
    ) -> None:
        super().__init__()
        if stem_channels is None:
            stem_channels = ceil(STEM_CHANNELS[(width >= 1) + (width >= 2)] / groups) * groups
        if stem_channels % groups:
            raise UserError(
                f"stem_channels must be null or a multiple of groups, which is {groups}, got {stem_channels}."
            )
        stage_channels = _stage_channels(width, groups, stem_channels)
        style = ConvStyle(norm=norm, activation=nn.ReLU)
        self.layers = nn.ModuleDict(
            {
                "conv_1": ConvNormAct(3, stem_channels, 3, style=style, stride=2),
                "pool_1": nn.MaxPool2d(3, stride=2, padding=1),
            }
        )
        features = [FeatureInfo("conv_1", stem_channels, 2), FeatureInfo("pool_1", stem_channels, 4)]
        strides = Strides(output_stride, reached=4)
        channels = stem_channels
        for stage, units in enumerate(UNITS, start=2):
            for unit in range(1, units + 1):
                stride, dilation = strides.take(2 if unit == 1 else 1)
                name = f"stage_{stage}_{unit}"
                self.layers[name] = ShuffleUnit(
                    channels,
                    stage_channels,
                    groups=groups,
                    grouped_input=(stage, unit) != (2, 1),
                    stride=stride,
                    dilation=dilation,
                    style=style,
                )
                channels = stage_channels
                features.append(FeatureInfo(name, channels, strides.reached))
            stage_channels *= 2
        self.feature_info = tuple(features)
        self.selected = tuple(self.layers)
        initialize(self)


def _stage_channels(width: float, groups: int, stem_channels: int) -> int:
    """Returns the channels of stage 2; raises UserError if its group convolutions do not divide them."""
    channels = round(CHANNELS[groups] * width)
    multiple = BOTTLENECK_SHARE * groups
    if channels % multiple or channels <= stem_channels:
        fitting = max(round(channels / multiple), stem_channels // multiple + 1) * multiple
        raise UserError(
            f"width {width} gives stage 2 {channels} channels, but with groups {groups} it needs a "
            f"multiple of {multiple} above the first convolution's {stem_channels}; the nearest width is "
            f"{fitting / CHANNELS[groups]:.4g}."
        )
    return channels
