"""SSD: Single Shot MultiBox Detector. Liu et al., ECCV 2016, arXiv 1512.02325."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.errors import UserError
from mbv2kit.heads.multibox import MultiBox
from mbv2kit.heads.registry import HEADS, Raw
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.nn import boxes as bx
from mbv2kit.nn.features import FeatureInfo, choose_maps
from mbv2kit.schema.rules import Name, Share

# The fully connected layers of VGG as convolutions, with a quarter of their 4096 channels. pool5 has no stride here, so
# 3 x 3 taps with dilation 6 cover what 7 x 7 covered after a stride of 2.
FC_CHANNELS = 1024
FC6_DILATION = 6
# A smaller map of stride 16 leaves no input for the last convolution.
LEAST_STEPS = 17


class Extra(NamedTuple):
    """An additional map: a 1 x 1 convolution to half the channels, then a convolution with these options."""

    channels: int
    stride: int = 1
    padding: int = 0
    kernel_size: int = 3


@HEADS.register("ssd300")
class SSD300(MultiBox):
    """Boxes from six feature maps of VGG16, for inputs of 300 x 300 (Figure 2 of the paper).

    The first map is the deepest of stride 8 (conv4_3 of VGG16), with its vector at every step scaled to a learned
    length. The second is computed from the deepest of stride 16 (conv5_3) by a 3 x 3 max pooling of stride 1 (pool5), a
    dilated 3 x 3 convolution (fc6) and a 1 x 1 convolution (fc7); each other map is computed from the previous one. At
    300 pixels the maps have 38, 19, 10, 5, 3 and 1 steps a side and 8732 anchors. Any backbone with maps of strides 8
    and 16 fits.

    There is no batch norm. The paper trains from VGG16's ImageNet weights and takes even fc6 and fc7 from a part of its
    classifier; here all layers of the head start with fresh weights by Glorot and Bengio.

    Anchors have the scales of section 2.2 and centers at (i + 0.5) / steps. The authors' code truncates the step
    between the scales of ssd300 to whole percents (0.17 instead of 0.175), and places anchors 8, 16, 32, 64, 100 and
    300 pixels apart. The default scales are those of the paper for VOC; for COCO it uses min_scale 0.15 and first_scale
    0.07 in ssd300, 0.1 and 0.04 in ssd512 (section 3.4).

    Raw tensors, loss and predictions are those of :class:`~mbv2kit.heads.multibox.MultiBox`.

    Args:
        feature_info: Feature maps of the backbone.
        num_classes: Number of classes, without background.
        first_scale: Scale of the first map's anchors, as a fraction of the input's short side.
        min_scale: Scale of the second map's anchors.
        max_scale: Scale of the last map's anchors.
        maps: Names of two maps of the backbone to read instead of the two above.
        match_iou: IoU from which an anchor counts as an object.
        nms: Which of its boxes the head returns.

    Attributes:
        extra_maps: The maps after fc7, in order.
        boxes_per_cell: Number of anchors in a cell of each map.

    Raises:
        UserError: An argument is out of range, or the backbone lacks a map.
    """

    extra_maps: ClassVar[tuple[Extra, ...]] = (
        Extra(512, stride=2, padding=1),
        Extra(256, stride=2, padding=1),
        Extra(256),
        Extra(256),
    )
    boxes_per_cell: ClassVar[tuple[int, ...]] = (4, 6, 6, 6, 4, 4)

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        first_scale: Share = 0.1,
        min_scale: Share = 0.2,
        max_scale: Share = 0.9,
        maps: tuple[Name, Name] | None = None,
        match_iou: Share = 0.5,
        nms: NmsOptions = NmsOptions(score_threshold=0.01, nms_iou=0.45, max_detections=200),
    ) -> None:
        super().__init__(num_classes, match_iou=match_iou, nms=nms)
        near, far = choose_maps(feature_info, maps, strides=(8, 16))
        self.features = (near.name, far.name)
        self.norm = L2Norm(near.channels)
        self.pool5 = nn.MaxPool2d(3, stride=1, padding=1)
        self.fc6 = nn.Conv2d(far.channels, FC_CHANNELS, 3, padding=FC6_DILATION, dilation=FC6_DILATION)
        self.fc7 = nn.Conv2d(FC_CHANNELS, FC_CHANNELS, 1)
        channels = [near.channels, FC_CHANNELS]
        self.extras = nn.ModuleList()
        for extra in self.extra_maps:
            self.extras.append(_extra_map(channels[-1], extra))
            channels.append(extra.channels)
        self.shapes = bx.default_box_shapes(self.boxes_per_cell, first_scale, min_scale, max_scale)
        self.classifiers = nn.ModuleList()
        self.regressors = nn.ModuleList()
        for width, count in zip(channels, self.boxes_per_cell, strict=True):
            self.classifiers.append(nn.Conv2d(width, count * (num_classes + 1), 3, padding=1))
            self.regressors.append(nn.Conv2d(width, count * 4, 3, padding=1))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.xavier_uniform_(part.weight)
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Predicts class logits and box codes for every anchor of every map.

        Raises:
            UserError: The input is so small that the last map would be empty.
        """
        near, far = (features[name] for name in self.features)
        if min(far.shape[2:]) < LEAST_STEPS:
            raise UserError(
                f"ssd300 and ssd512 need a map {self.features[1]} of at least {LEAST_STEPS} x {LEAST_STEPS} steps, got "
                f"{far.shape[2]} x {far.shape[3]}; use inputs of at least {16 * LEAST_STEPS} pixels a side."
            )
        fc6 = self.fc6(self.pool5(far)).relu()
        maps = [self.norm(near), self.fc7(fc6).relu()]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return self.predict(maps)


@HEADS.register("ssd512", first_scale=0.07, min_scale=0.15)
class SSD512(SSD300):
    """Boxes from seven feature maps of VGG16, for inputs of 512 x 512; otherwise equal to :class:`SSD300`.

    At 512 pixels the maps have 64, 32, 16, 8, 4, 2 and 1 steps a side and 24564 anchors, with smaller scales.
    """

    extra_maps = (
        Extra(512, stride=2, padding=1),
        Extra(256, stride=2, padding=1),
        Extra(256, stride=2, padding=1),
        Extra(256, stride=2, padding=1),
        Extra(256, padding=1, kernel_size=4),
    )
    boxes_per_cell = (4, 6, 6, 6, 6, 4, 4)


class L2Norm(nn.Module):
    """Scales the vector at every step of a map to length 1, and each of its channels by a learned factor.

    The features of conv4_3 have another scale than those of later maps (section 3.1; Liu et al., ParseNet, arXiv
    1506.04579). A vector of zeros stays zero.

    Args:
        channels: Number of channels.
        scale: Initial value of all factors.
    """

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, features: Tensor) -> Tensor:
        """Normalizes ``(B, channels, H, W)``."""
        return F.normalize(features, dim=1) * self.weight[:, None, None]


def _extra_map(in_channels: int, extra: Extra) -> nn.Sequential:
    half = extra.channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, half, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, extra.channels, extra.kernel_size, stride=extra.stride, padding=extra.padding),
        nn.ReLU(inplace=True),
    )
