"""The ResNet-101 of DeepLab's code, called beta. Chen et al., 2017, arXiv 1706.05587; from torchvision's blocks."""

from functools import partial

from torch import nn

from mbv2kit.backbones.registry import BACKBONES, Backbone
from mbv2kit.backbones.strides import Strides
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import ConvNormAct, ConvStyle, NormOptions, initialize
from mbv2kit.schema.rules import Rate, Stride

# Channels of the 3 x 3 convolutions, number of units, and stride of the last unit.
STAGES = ((64, 3, 2), (128, 4, 2), (256, 23, 2), (512, 3, 1))
# Channels and stride of the three convolutions that replace the 7 x 7 convolution of the original ResNet.
ROOT = ((64, 2), (64, 1), (128, 1))


@BACKBONES.register("resnet_101_beta")
class ResNet101Beta(Backbone):
    """The backbone of MobileNetV2's Table 7 without its classifier: 34 feature maps.

    It differs from ``resnet_101`` in its root of three 3 x 3 convolutions, and in that stages 1 to 3 have their stride
    in their last unit, not in their first. ``stem`` is the root with the following max pooling; the units of the four
    stages are ``stage_1_1`` to ``stage_1_3``, ``stage_2_1`` to ``stage_2_4``, ``stage_3_1`` to ``stage_3_23`` and
    ``stage_4_1`` to ``stage_4_3``. At output stride 32 the deepest map of stride 16 is ``stage_3_22``.

    Args:
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32. Below 32, strides become dilation.
        multi_grid: Rates of the three units of the last stage, by which their dilation is multiplied (DeepLabv3,
            section 3.2.1).
        norm: How batch normalization computes.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        output_stride: Stride = 32,
        multi_grid: tuple[Rate, Rate, Rate] = (1, 2, 4),
        norm: NormOptions = NormOptions(norm_eps=1e-5, norm_momentum=0.1),
    ) -> None:
        # The import takes a second, which every start of every tool would spend.
        from torchvision.models.resnet import Bottleneck

        super().__init__()
        strides = Strides(output_stride, reached=4)
        relu = partial(nn.ReLU, inplace=True)
        style = ConvStyle(norm=norm, activation=relu)
        stem = nn.Sequential()
        channels = 3
        for number, (out_channels, stride) in enumerate(ROOT, start=1):
            stem.add_module(f"conv_{number}", ConvNormAct(channels, out_channels, 3, style=style, stride=stride))
            channels = out_channels
        stem.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
        self.layers = nn.ModuleDict({"stem": stem})
        features = [FeatureInfo("stem", channels, strides.reached)]
        for stage, (inner, units, last_stride) in enumerate(STAGES, start=1):
            out_channels = inner * Bottleneck.expansion
            for unit in range(1, units + 1):
                stride, dilation = strides.take(last_stride if unit == units else 1)
                if stage == len(STAGES):
                    dilation *= multi_grid[unit - 1]
                shortcut: nn.Module | None = None
                if channels != out_channels:
                    shortcut = ConvNormAct(channels, out_channels, 1, style=style, stride=stride, activation=False)
                elif stride > 1:
                    shortcut = nn.MaxPool2d(1, stride=stride)
                name = f"stage_{stage}_{unit}"
                self.layers[name] = Bottleneck(
                    channels, inner, stride, shortcut, dilation=dilation, norm_layer=style.norm
                )
                channels = out_channels
                features.append(FeatureInfo(name, channels, strides.reached))
        self.feature_info = tuple(features)
        self.selected = tuple(self.layers)
        initialize(self)
