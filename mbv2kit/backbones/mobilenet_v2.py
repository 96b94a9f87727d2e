"""MobileNetV2: Inverted Residuals and Linear Bottlenecks. Sandler et al., CVPR 2018, arXiv 1801.04381."""

from collections import OrderedDict
from math import ceil
from typing import Annotated

from torch import Tensor, nn

from mbv2kit.backbones.registry import BACKBONES, Backbone, Width
from mbv2kit.backbones.strides import Strides
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import (
    Bottleneck,
    ConvNormAct,
    ConvStyle,
    InvertedResidual,
    NormOptions,
    Padding,
    Shortcut,
    initialize,
    make_divisible,
)
from mbv2kit.schema.rules import Stride, above, between

# Table 2 between the first and the last convolution: expansion t, channels c, repeats n, stride s of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


@BACKBONES.register("mobilenet_v2")
class MobileNetV2(Backbone):
    """The network of Table 2 without its classifier: layers 1 to 19, each a feature map.

    ``layer_1`` is the first convolution, ``layer_2`` to ``layer_18`` the bottleneck blocks, ``layer_19`` the last
    1 x 1 convolution. The expansion within each layer that has a stride is also a map, the last one at its resolution:
    ``layer_15_expansion``, 576 channels at stride 16, is the first map that SSDLite reads (Section 6.2).

    Args:
        width: Factor on all channels; the paper uses 0.35 to 1.4.
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32. Below 32, strides become dilation.
        padding: ``symmetric``, or ``tf_same`` for weights that come from TensorFlow.
        bottleneck: ``linear``, or ``relu6`` for the ablation of Figure 6a.
        shortcut: ``bottleneck``, or ``expansion`` and ``none`` for the ablation of Figure 6b.
        shrink_last: Whether the 1280 channels of the last layer shrink with a width below 1. The published
            classifiers keep them (Section 6.1), TensorFlow's detectors do not.
        divisible_by: Number of which the numbers of channels are multiples; 1 in TensorFlow's DeepLab below width 1.
        depth: Factor on the number of blocks in each stage between the first and the last, rounded up; with
            ``fixed_ends`` it gives timm's deeper variants (width and depth 1.1 and 1.2, or 1.2 and 1.4).
        fixed_ends: Whether the first and the last convolution have 32 and 1280 channels at any width.
        zero_init_residual: Whether the last norm of a linear block with a shortcut starts at zero (Goyal et al. 2017,
            arXiv 1706.02677, section 5.1): only its shortcut is active then, and the shallow network learns faster.
        norm: How batch normalization computes; TensorFlow's code has a ``norm_momentum`` of 0.003.

    Raises:
        UserError: An argument is out of range.
    """

    free_options = Backbone.free_options | {"zero_init_residual"}

    def __init__(
        self,
        width: Width = 1.0,
        output_stride: Stride = 32,
        padding: Padding = "symmetric",
        bottleneck: Bottleneck = "linear",
        shortcut: Shortcut = "bottleneck",
        shrink_last: bool = False,
        divisible_by: Annotated[int, between(1, 1024)] = 8,
        depth: Annotated[float, above(0, 10)] = 1.0,
        fixed_ends: bool = False,
        zero_init_residual: bool = True,
        norm: NormOptions = NormOptions(norm_eps=1e-3, norm_momentum=0.03),
    ) -> None:
        super().__init__()
        style = ConvStyle(padding, norm)
        channels = make_divisible(STEM_CHANNELS * (1.0 if fixed_ends else width), divisible_by)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["layer_1"] = ConvNormAct(3, channels, 3, style=style, stride=2)
        features = [FeatureInfo("layer_1", channels, 2)]
        strides = Strides(output_stride, reached=2)
        for stage, (expansion, base_channels, repeats, stage_stride) in enumerate(STAGES):
            out_channels = make_divisible(base_channels * width, divisible_by)
            inner = 0 < stage < len(STAGES) - 1
            for repeat in range(ceil(repeats * depth) if inner else repeats):
                name = f"layer_{len(layers) + 1}"
                if repeat == 0 and stage_stride == 2:
                    features.append(FeatureInfo(f"{name}_expansion", channels * expansion, strides.reached))
                wanted = stage_stride if repeat == 0 else 1
                stride, dilation = strides.take(wanted)
                layers[name] = InvertedResidual(
                    channels,
                    out_channels,
                    expansion=expansion,
                    stride=stride,
                    dilation=dilation,
                    bottleneck=bottleneck,
                    # At small widths it may keep its channels, but the strided block that it replaces has no shortcut.
                    shortcut=shortcut if stride == wanted else "none",
                    style=style,
                )
                channels = out_channels
                features.append(FeatureInfo(name, channels, strides.reached))
        last_width = 1.0 if fixed_ends else width if shrink_last else max(1.0, width)
        last = make_divisible(LAST_CHANNELS * last_width, divisible_by)
        name = f"layer_{len(layers) + 1}"
        layers[name] = ConvNormAct(channels, last, 1, style=style)
        features.append(FeatureInfo(name, last, strides.reached))
        self.layers = nn.ModuleDict(layers)
        self.feature_info = tuple(features)
        self.selected = tuple(feature.name for feature in features)
        initialize(self)
        # Before a ReLU6 a zero would stay zero, because it gets no gradient.
        if zero_init_residual and bottleneck == "linear":
            for layer in layers.values():
                if isinstance(layer, InvertedResidual) and layer.adds_input:
                    nn.init.zeros_(layer.project.norm.weight)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the selected maps of normalized images ``(B, 3, H, W)``."""
        maps: dict[str, Tensor] = {}
        current, carried = images, None
        for name, layer in self.layers.items():
            if isinstance(layer, InvertedResidual):
                current, expansion = layer(current, carried)
                carried = expansion if layer.hands_on_expansion else None
                if f"{name}_expansion" in self.selected:
                    maps[f"{name}_expansion"] = expansion
                # These are the widest tensors of the network; none must live a layer longer than needed.
                del expansion
            else:
                current = layer(current)
            if name in self.selected:
                maps[name] = current
        return maps
