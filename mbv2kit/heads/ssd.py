"""SSD on a mobile network, and SSDLite, its variant with separable convolutions (MobileNetV2, Section 6.2)."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from torch import Tensor, nn

from mbv2kit.heads.multibox import MultiBox
from mbv2kit.heads.registry import HEADS, Raw
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.nn import boxes as bx
from mbv2kit.nn.features import FeatureInfo, choose_maps
from mbv2kit.nn.layers import Conv2d, ConvNormAct, ConvStyle, NormOptions, Padding, SeparableConv
from mbv2kit.schema.rules import FEW, FILLED, Name, Share

EXTRA_CHANNELS = (512, 256, 256, 128)


@HEADS.register("ssdlite")
class SSD(MultiBox):
    """Boxes from six feature maps, each cell of which scores a few anchors.

    The first two maps come from the backbone: the deepest of stride 16 (on MobileNetV2 the 576-channel expansion of
    layer 15) and the last, at stride 32. Four more are computed from it by 1 x 1 and strided 3 x 3 convolutions.

    Raw tensors, loss and predictions are those of :class:`~mbv2kit.heads.multibox.MultiBox`.

    Args:
        feature_info: Feature maps of the backbone.
        num_classes: Number of classes, without background.
        separable: Whether prediction layers and extra maps use separable convolutions, as in SSDLite; false for SSD.
        anchors: ``tf`` (3 anchors per cell of the first map, 6 of the others) or ``uniform`` (6 of all maps).
        min_scale: Scale of the first map's anchors, as a fraction of the input's short side.
        max_scale: Scale of the last map's anchors.
        maps: Names of the backbone's maps to read instead of the two above.
        match_iou: IoU from which an anchor counts as an object.
        nms: Which of its boxes the head returns.
        padding: Padding of the strided convolutions, as in the backbone.
        norm: How batch normalization computes.

    Raises:
        UserError: An argument is out of range, or the backbone lacks a map.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        separable: bool = True,
        anchors: bx.AnchorPreset = "tf",
        min_scale: Share = 0.2,
        max_scale: Share = 0.95,
        maps: Annotated[Sequence[Name], FILLED, FEW] | None = None,
        match_iou: Share = 0.5,
        nms: NmsOptions = NmsOptions(score_threshold=0.01, nms_iou=0.6, max_detections=100),
        padding: Padding = "symmetric",
        norm: NormOptions = NormOptions(norm_eps=1e-3, norm_momentum=0.03),
    ) -> None:
        super().__init__(num_classes, match_iou=match_iou, nms=nms)
        sources = choose_maps(feature_info, maps, strides=(16, 32))
        style = ConvStyle(padding, norm)
        self.features = tuple(source.name for source in sources)
        channels = [source.channels for source in sources]
        self.extras = nn.ModuleList()
        for extra in EXTRA_CHANNELS:
            self.extras.append(_extra_map(channels[-1], extra, separable, style))
            channels.append(extra)
        self.shapes = bx.anchor_shapes(len(channels), anchors, min_scale, max_scale)
        self.classifiers = nn.ModuleList()
        self.regressors = nn.ModuleList()
        for width, cell in zip(channels, self.shapes, strict=True):
            self.classifiers.append(_prediction(width, len(cell) * (num_classes + 1), separable, style))
            self.regressors.append(_prediction(width, len(cell) * 4, separable, style))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.trunc_normal_(part.weight, std=0.03)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Predicts class logits and box codes for every anchor of every map."""
        maps = [features[name] for name in self.features]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return self.predict(maps)


HEADS.register("ssd", separable=False)(SSD)


def _extra_map(in_channels: int, out_channels: int, separable: bool, style: ConvStyle) -> nn.Module:
    half = out_channels // 2
    squeeze = ConvNormAct(in_channels, half, 1, style=style)
    if separable:
        return nn.Sequential(squeeze, SeparableConv(half, out_channels, style=style, stride=2))
    return nn.Sequential(squeeze, ConvNormAct(half, out_channels, 3, style=style, stride=2))


def _prediction(in_channels: int, out_channels: int, separable: bool, style: ConvStyle) -> nn.Module:
    if not separable:
        return Conv2d(in_channels, out_channels, 3, bias=True, padding=style.padding)
    depthwise = ConvNormAct(in_channels, in_channels, 3, style=style, groups=in_channels)
    return nn.Sequential(depthwise, Conv2d(in_channels, out_channels, 1, bias=True))
