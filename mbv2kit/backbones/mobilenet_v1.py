"""MobileNets: Efficient Convolutional Neural Networks for Mobile Vision. Howard et al., 2017, arXiv 1704.04861."""

from torch import nn

from mbv2kit.backbones.registry import BACKBONES, Backbone, Width
from mbv2kit.backbones.strides import Strides
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import (
    ACTIVATIONS,
    Activation,
    ConvNormAct,
    ConvStyle,
    NormOptions,
    Padding,
    SeparableConv,
    initialize,
)
from mbv2kit.schema.rules import Stride

# Table 1 between first convolution and pooling: channels and stride of each separable convolution.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
STEM_CHANNELS = 32
LEAST_CHANNELS = 8


@BACKBONES.register("mobilenet_v1")
class MobileNetV1(Backbone):
    """The network of Table 1 without its classifier: layers 1 to 14, each a feature map.

    ``layer_1`` is the first convolution, ``layer_2`` to ``layer_14`` are the depthwise separable convolutions.

    Args:
        width: The width multiplier of section 3.3; the paper uses 0.25, 0.5, 0.75 and 1.
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32. Below 32, strides become dilation.
        padding: ``symmetric``, or ``tf_same`` for weights that come from TensorFlow.
        activation: ``relu6`` as in TensorFlow, or ``relu``.
        norm: How batch normalization computes; TensorFlow's code has a ``norm_momentum`` of 0.0003.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        width: Width = 1.0,
        output_stride: Stride = 32,
        padding: Padding = "symmetric",
        activation: Activation = "relu6",
        norm: NormOptions = NormOptions(norm_eps=1e-3, norm_momentum=0.03),
    ) -> None:
        super().__init__()
        style = ConvStyle(padding, norm, ACTIVATIONS[activation])
        channels = _scale(STEM_CHANNELS, width)
        self.layers = nn.ModuleDict({"layer_1": ConvNormAct(3, channels, 3, style=style, stride=2)})
        features = [FeatureInfo("layer_1", channels, 2)]
        strides = Strides(output_stride, reached=2)
        for number, (base_channels, base_stride) in enumerate(BLOCKS, start=2):
            stride, dilation = strides.take(base_stride)
            out_channels = _scale(base_channels, width)
            name = f"layer_{number}"
            self.layers[name] = SeparableConv(channels, out_channels, style=style, stride=stride, dilation=dilation)
            channels = out_channels
            features.append(FeatureInfo(name, channels, strides.reached))
        self.feature_info = tuple(features)
        self.selected = tuple(feature.name for feature in features)
        initialize(self)


def _scale(channels: int, width: float) -> int:
    """Unlike MobileNetV2, TensorFlow's MobileNetV1 does not round to multiples of 8."""
    return max(LEAST_CHANNELS, int(channels * width))
