"""SSD on a mobile network, and SSDLite, its variant with separable convolutions (MobileNetV2, Section 6.2)."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.heads.multibox import MultiBox, Scores
from mbv2kit.heads.registry import HEADS, Raw
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.nn import boxes as bx
from mbv2kit.nn.features import FeatureInfo, choose_maps
from mbv2kit.nn.layers import (
    ACTIVATIONS,
    Activation,
    Conv2d,
    ConvNormAct,
    ConvStyle,
    NormOptions,
    Padding,
    SeparableConv,
)
from mbv2kit.schema.rules import FEW, FILLED, LONGEST_SIDE, Name, Share, above, among, between

_AnchorSide = Annotated[float, above(0, 10)]
_Cell = Annotated[Sequence[tuple[_AnchorSide, _AnchorSide]], FILLED, FEW]
_Step = Annotated[float, above(0, LONGEST_SIDE)]
Cells = Annotated[Sequence[_Cell], FILLED, FEW]
# Inner channels of an extra map that is a bottleneck.
_LEAST_INNER = 64


@HEADS.register("ssdlite")
class SSD(MultiBox):
    """Boxes from six feature maps, each cell of which scores a few anchors.

    The first two maps come from the backbone: the deepest of stride 16 (on MobileNetV2 the 576-channel expansion of
    layer 15) and the last, at stride 32. Four more are computed from it by 1 x 1 convolutions to half their channels
    and strided 3 x 3 convolutions.

    Raw tensors, loss and predictions are those of :class:`~mbv2kit.heads.multibox.MultiBox`.

    Args:
        feature_info: Feature maps of the backbone.
        num_classes: Number of classes, without background.
        separable: Whether prediction layers and extra maps use separable convolutions, as in SSDLite; false for SSD.
        anchors: ``tf`` (3 anchors per cell of the first map, 6 of the others), ``uniform`` (6 of all maps), or a list
            of the (width, height) of a cell's anchors for each map, as fractions of the input's short side.
        min_scale: Scale of the first map's anchors, as a fraction of the input's short side; not for a list.
        max_scale: Scale of the last map's anchors; not for a list.
        anchor_steps: Input pixels between the cells of each map, for weights that were trained with fixed steps such as
            32 pixels: 10 cells cover 320 pixels of an input of 300. None, for a map or for all, lets the cells share
            the input evenly.
        scores: ``softmax`` over the classes and the background, or ``sigmoid`` of each class, as in TensorFlow's
            Object Detection API; it decides the loss, too.
        extra_channels: Channels of the maps that are computed.
        bottlenecks: Whether the extra maps of SSDLite are linear bottlenecks, with at least 64 channels inside, and its
            last map is predicted by 1 x 1 convolutions alone, as in the detectors of pytorch-ssd.
        kernel: Side of the prediction layers' kernels, of the depthwise ones where they are separable.
        maps: Names of the backbone's maps to read instead of the two above.
        match_iou: IoU from which an anchor counts as an object.
        nms: Which of its boxes the head returns.
        padding: Padding of the strided convolutions, as in the backbone.
        activation: ``relu6``, or ``relu``, as in the backbone.
        norm: How batch normalization computes.

    Raises:
        UserError: An argument is out of range, or the backbone lacks a map.
    """

    weight_options = frozenset({
        "anchors", "min_scale", "max_scale", "anchor_steps", "maps", "scores", "extra_channels", "bottlenecks",
        "kernel", "padding", "activation", "norm_eps",
    })  # fmt: skip
    fixed_options = frozenset({"padding", "activation", "norm_eps"})

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        separable: bool = True,
        anchors: bx.AnchorPreset | Cells = "tf",
        min_scale: Share = 0.2,
        max_scale: Share = 0.95,
        anchor_steps: Annotated[Sequence[_Step | None], FILLED, FEW] | None = None,
        maps: Annotated[Sequence[Name], FILLED, FEW] | None = None,
        match_iou: Share = 0.5,
        scores: Scores = "softmax",
        extra_channels: Annotated[Sequence[Annotated[int, between(2, 1_000_000)]], FEW] = (512, 256, 256, 128),
        bottlenecks: bool = False,
        kernel: Annotated[int, among(1, 3, 5)] = 3,
        nms: NmsOptions = NmsOptions(score_threshold=0.01, nms_iou=0.6, max_detections=100),
        padding: Padding = "symmetric",
        activation: Activation = "relu6",
        norm: NormOptions = NormOptions(norm_eps=1e-3, norm_momentum=0.03),
    ) -> None:
        super().__init__(num_classes, match_iou=match_iou, nms=nms, scores=scores)
        if bottlenecks and not separable:
            raise UserError("bottlenecks=true needs separable convolutions, got a head without; take head=ssdlite.")
        sources = choose_maps(feature_info, maps, strides=(16, 32))
        style = ConvStyle(padding, norm, ACTIVATIONS[activation])
        self.features = tuple(source.name for source in sources)
        channels = [source.channels for source in sources]
        self.extras = nn.ModuleList()
        for extra in extra_channels:
            self.extras.append(_extra_map(channels[-1], extra, separable, bottlenecks, style))
            channels.append(extra)
        self.shapes = _shapes(len(channels), anchors, min_scale, max_scale)
        if anchor_steps is not None and len(anchor_steps) != len(channels):
            raise UserError(f"anchor_steps lists {len(anchor_steps)} maps, but the head predicts on {len(channels)}.")
        self.steps = anchor_steps
        self.classifiers = nn.ModuleList()
        self.regressors = nn.ModuleList()
        for place, (width, cell) in enumerate(zip(channels, self.shapes, strict=True), start=1):
            plain = bottlenecks and place == len(channels)
            kind = (1, False) if plain else (kernel, separable)
            self.classifiers.append(_prediction(width, len(cell) * (num_classes + 1), *kind, style))
            self.regressors.append(_prediction(width, len(cell) * 4, *kind, style))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.trunc_normal_(part.weight, std=0.03)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        if scores == "sigmoid":
            self.doubt_all_classes()

    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Predicts class logits and box codes for every anchor of every map."""
        maps = [features[name] for name in self.features]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return self.predict(maps)


HEADS.register("ssd", separable=False)(SSD)


def _shapes(maps: int, anchors: bx.AnchorPreset | bx.Cells, min_scale: float, max_scale: float) -> bx.Cells:
    if isinstance(anchors, str):
        return bx.anchor_shapes(maps, anchors, min_scale, max_scale)
    if len(anchors) != maps:
        raise UserError(f"anchors lists {len(anchors)} maps, but the head predicts on {maps}.")
    return anchors


def _extra_map(in_channels: int, out_channels: int, separable: bool, bottleneck: bool, style: ConvStyle) -> nn.Module:
    inner = max(out_channels // 2, _LEAST_INNER) if bottleneck else out_channels // 2
    squeeze = ConvNormAct(in_channels, inner, 1, style=style)
    if separable:
        return nn.Sequential(squeeze, SeparableConv(inner, out_channels, style=style, stride=2, linear=bottleneck))
    return nn.Sequential(squeeze, ConvNormAct(inner, out_channels, 3, style=style, stride=2))


def _prediction(in_channels: int, out_channels: int, kernel: int, separable: bool, style: ConvStyle) -> nn.Module:
    if not separable:
        return Conv2d(in_channels, out_channels, kernel, bias=True, padding=style.padding)
    depthwise = ConvNormAct(in_channels, in_channels, kernel, style=style, groups=in_channels)
    return nn.Sequential(depthwise, Conv2d(in_channels, out_channels, 1, bias=True))
