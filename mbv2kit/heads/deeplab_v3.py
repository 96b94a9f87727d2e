"""DeepLabv3, Chen et al., arXiv 1706.05587, in the light variant of MobileNetV2's Section 6.3."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.errors import UserError
from mbv2kit.heads.registry import HEADS, Head, Raw, Targets
from mbv2kit.nn.features import FeatureInfo, deepest_feature, find_feature
from mbv2kit.nn.interpolation import enlarge
from mbv2kit.nn.layers import ConvNormAct, ConvStyle, NormOptions, initialize
from mbv2kit.schema.rules import FEW, FILLED, Channels, Fraction, Name, Rate, between
from mbv2kit.structures import IGNORE

# Rates of the three atrous convolutions at output stride 16; finer maps double them, coarser ones halve them.
RATES_AT_16 = (6, 12, 18)


@HEADS.register("deeplab_v3")
class DeepLabV3(Head):
    """Predicts a class for every pixel, from one feature map.

    Branches over the map (image pooling, a 1 x 1 convolution and, with ``aspp``, three atrous 3 x 3 convolutions) are
    joined by a 1 x 1 convolution and classified. The logits have the size of the map; loss and decoding enlarge them,
    by default with aligned corners, which is exact for inputs of 16 k + 1 pixels a side.

    Raw tensors: ``logits`` ``(B, num_classes, h, w)``.

    Args:
        feature_info: Feature maps of the backbone.
        num_classes: Number of classes, including the background if there is one.
        aspp: Whether to add the atrous branches; the paper's mobile models do not (Table 7).
        rates: Dilations of the atrous branches; null: 6, 12, 18 at output stride 16, twice that at 8.
        feature: ``second_last`` (320 channels on MobileNetV2, the paper's choice), ``last``, ``stride_16`` (the deepest
            map of that stride), or the name of a map. Next to other heads, which need maps of stride 32, the default is
            ``stride_16``.
        image_pooling: Whether one branch reads the average over the whole input.
        channels: Number of channels of every branch.
        dropout: Fraction of the joined channels that is set to zero in training.
        refine: Whether a 3 x 3 convolution follows before the classification, as in torchvision's models.
        align_corners: Whether the corners of map and image are aligned; torchvision's models align their edges.
        class_weights: Weight of each class in the loss, for rare classes; null: all 1.
        norm: How batch normalization computes.

    Raises:
        UserError: An argument is out of range, or the backbone lacks the map.
    """

    task = "segmentation"
    next_to_others: ClassVar[Mapping[str, Any]] = {"feature": "stride_16"}
    least_count = torch.finfo(torch.float32).tiny

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        aspp: bool = False,
        rates: Annotated[Sequence[Rate], FILLED, FEW] | None = None,
        feature: Name = "second_last",
        image_pooling: bool = True,
        channels: Channels = 256,
        dropout: Fraction = 0.1,
        refine: bool = False,
        align_corners: bool = True,
        class_weights: Sequence[Annotated[float, between(0, 1_000_000)]] | None = None,
        norm: NormOptions = NormOptions(norm_eps=1e-5, norm_momentum=0.03),
    ) -> None:
        super().__init__()
        if class_weights is not None and len(class_weights) != num_classes:
            raise UserError(
                f"class_weights must hold a weight for each of the {num_classes} classes, got {len(class_weights)}."
            )
        if num_classes > IGNORE:
            raise UserError(f"A mask can hold at most {IGNORE} classes, got {num_classes}.")
        source = _choose(feature_info, feature)
        style = ConvStyle(norm=norm, activation=nn.ReLU)
        self.features = (source.name,)
        self.pooling = ConvNormAct(source.channels, channels, 1, style=style) if image_pooling else None
        self.branches = nn.ModuleList([ConvNormAct(source.channels, channels, 1, style=style)])
        if aspp:
            if rates is None:
                rates = [max(1, rate * 16 // source.stride) for rate in RATES_AT_16]
            for rate in rates:
                self.branches.append(ConvNormAct(source.channels, channels, 3, style=style, dilation=rate))
        joined = channels * (len(self.branches) + image_pooling)
        self.join = ConvNormAct(joined, channels, 1, style=style)
        self.dropout = nn.Dropout(dropout)
        self.refine = ConvNormAct(channels, channels, 3, style=style) if refine else nn.Identity()
        self.align_corners = align_corners
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        initialize(self)
        nn.init.normal_(self.classify.weight, std=0.01)

    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Scores the classes at every step of the map."""
        x = features[self.features[0]]
        outputs = [branch(x) for branch in self.branches]
        if self.pooling is not None:
            pooled = self.pooling(x.mean(dim=(2, 3), keepdim=True))
            outputs.insert(0, pooled.expand(-1, -1, x.shape[2], x.shape[3]))
        return {"logits": self.classify(self.refine(self.dropout(self.join(torch.cat(outputs, dim=1)))))}

    def loss(self, raw: Raw, targets: Targets) -> dict[str, Tensor]:
        """Computes cross-entropy over the pixels whose ``mask`` is not 255."""
        mask = targets["mask"].long()
        with torch.autocast(mask.device.type, enabled=False):
            logits = self.enlarge(raw["logits"].float(), (mask.shape[1], mask.shape[2]))
        losses = F.cross_entropy(logits, mask, weight=self.class_weights, ignore_index=IGNORE, reduction="sum")
        # A mask without any such pixel gives 0, not 0 / 0.
        return {"segmentation": losses / self.count(raw, targets).clamp(min=self.least_count)}

    @torch.no_grad()
    def count(self, raw: Raw, targets: Targets) -> Tensor:
        """Returns the number of pixels whose ``mask`` is not 255, or the sum of their weights."""
        mask = targets["mask"].long()
        counted: Tensor = mask != IGNORE
        if self.class_weights is not None:
            counted = self.class_weights[mask.masked_fill(~counted, 0)] * counted
        return counted.sum(dtype=torch.float32)

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolates ``(B, num_classes, h, w)`` to ``size`` pixels, (height, width) of the input."""
        return enlarge(logits, size, align_corners=self.align_corners)

    def outputs(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """Computes ``mask``, the most likely class of every input pixel."""
        enlarged = self.enlarge(raw["logits"].float(), size)
        # Exporters know arg-max. Run by torch, it takes six times as long as the maximum with its place.
        best = enlarged.argmax(dim=1) if torch.compiler.is_exporting() else enlarged.max(dim=1).indices
        return {"mask": best.to(torch.uint8)}


def _choose(feature_info: Sequence[FeatureInfo], feature: str) -> FeatureInfo:
    if feature == "last":
        return feature_info[-1]
    if feature == "second_last":
        return feature_info[-2]
    if feature == "stride_16":
        return deepest_feature(feature_info, 16)
    return find_feature(feature_info, feature)
