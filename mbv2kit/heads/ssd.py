"""SSD, Liu et al., ECCV 2016, and SSDLite, its form with separable convolutions (MobileNetV2, Section 6.2)."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit import boxes as bx
from mbv2kit.errors import UserError
from mbv2kit.features import FeatureInfo, deepest_feature, find_feature
from mbv2kit.heads.registry import HEADS, Head, Raw, Targets
from mbv2kit.layers import Conv2d, ConvNormAct, ConvStyle, Padding, SeparableConv, check_choice
from mbv2kit.structures import Detections, Prediction

EXTRA_CHANNELS = (512, 256, 256, 128)
NEGATIVES_PER_POSITIVE = 3
# An image without objects has no positives, yet it must teach what background looks like.
LEAST_NEGATIVES = 3
# An anchor that lies by half in a crowd region may well show one of its objects: it is no background.
CROWD_COVER = 0.5
_CANDIDATES = 1000


@HEADS.register("ssdlite")
class SSD(Head):
    """Boxes from six feature maps, each cell of which scores a few anchors.

    The first two maps come from the backbone: the deepest of stride 16 (on MobileNetV2 the 576-channel expansion of
    layer 15) and the last, at stride 32. Four more are made from it by 1 x 1 and strided 3 x 3 convolutions.

    Raw tensors: ``class_logits`` ``(B, A, num_classes + 1)``, background first; ``box_codes`` ``(B, A, 4)``;
    ``anchors`` ``(A, 4)`` on the unit square.

    Args:
        feature_info: What the backbone can give.
        num_classes: Number of classes, without background.
        separable: Whether prediction layers and extra maps use depthwise + pointwise convolutions: SSDLite, or SSD.
        anchors: ``tf`` (3 anchors a cell on the first map, 6 on the others) or ``uniform`` (6 everywhere).
        min_scale: Scale of the first map's anchors, as a share of the input's short side.
        max_scale: Scale of the last map's anchors.
        maps: Names of the backbone's maps to read instead of the two above.
        match_iou: Overlap at which an anchor counts as an object.
        score_threshold: Boxes below it are dropped before suppression.
        nms_iou: Overlap at which suppression takes two boxes of a class for one.
        max_detections: Boxes kept for each image.
        padding: Of the strided convolutions, as in the backbone.
        norm_eps: Epsilon of batch normalisation.
        norm_momentum: Share of the newest batch in the running statistics.

    Raises:
        UserError: An argument is out of range, or the backbone lacks a map.
    """

    task = "detection"

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        separable: bool = True,
        anchors: bx.AnchorPreset = "tf",
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        maps: Sequence[str] | None = None,
        match_iou: float = 0.5,
        score_threshold: float = 0.01,
        nms_iou: float = 0.6,
        max_detections: int = 100,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.03,
    ) -> None:
        super().__init__()
        check_choice("head.anchors", anchors, bx.AnchorPreset)
        for name, value in {"match_iou": match_iou, "score_threshold": score_threshold, "nms_iou": nms_iou}.items():
            if not 0 <= value <= 1:
                raise UserError(f"head.{name} must be in 0..1, got {value}.")
        if maps is not None and not maps:
            raise UserError("head.maps needs the name of at least one feature map, or null for the usual two, got [].")
        if maps is None:
            sources = [deepest_feature(feature_info, 16), deepest_feature(feature_info, 32)]
        else:
            sources = [find_feature(feature_info, name) for name in maps]
        style = ConvStyle(padding, norm_eps, norm_momentum)
        self.features = tuple(source.name for source in sources)
        self.num_classes = num_classes
        self.match_iou = match_iou
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
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
        logits = [_by_anchor(conv(x), self.num_classes + 1) for conv, x in zip(self.classifiers, maps, strict=True)]
        codes = [_by_anchor(conv(x), 4) for conv, x in zip(self.regressors, maps, strict=True)]
        grids = [(x.shape[2], x.shape[3]) for x in maps]
        # The finest grid has the input's shape, up to the rounding of one cell.
        anchors = bx.make_anchors(grids, self.shapes, grids[0]).to(maps[0].device)
        return {"class_logits": torch.cat(logits, dim=1), "box_codes": torch.cat(codes, dim=1), "anchors": anchors}

    def loss(self, raw: Raw, targets: Targets) -> dict[str, Tensor]:
        """Softmax loss with hard negatives 3:1 and smooth L1 on matched anchors, over the number of matches.

        Reads ``boxes``, ``labels``, ``crowd`` and ``size``; crowd regions are neither objects nor background.
        """
        logits, codes, anchors = raw["class_logits"].float(), raw["box_codes"].float(), raw["anchors"]
        height, width = targets["size"]
        unit = anchors.new_tensor([width, height, width, height])
        classes = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
        wanted = torch.zeros_like(codes)
        ignored = torch.zeros_like(classes, dtype=torch.bool)
        for i, (boxes, labels, crowd) in enumerate(
            zip(targets["boxes"], targets["labels"], targets["crowd"], strict=True)
        ):
            boxes = boxes / unit
            objects = boxes[~crowd]
            matched = bx.match(objects, anchors, self.match_iou)
            positive = matched >= 0
            classes[i, positive] = labels[~crowd][matched[positive]] + 1
            wanted[i, positive] = bx.encode(objects[matched[positive]], anchors[positive])
            if crowd.any():
                covered = bx.intersection(anchors, boxes[crowd]) / bx.area(anchors)[:, None]
                ignored[i] = (covered.amax(dim=1) > CROWD_COVER) & ~positive
        positive = classes > 0
        losses = F.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
        kept = positive | _hard_negatives(losses.detach(), positive, ignored)
        matches = positive.sum().clamp(min=1)
        return {
            "classification": (losses * kept).sum() / matches,
            "localisation": (F.smooth_l1_loss(codes, wanted, reduction="none").sum(-1) * positive).sum() / matches,
        }

    def decode(self, raw: Raw, sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Returns for each image at most ``max_detections`` boxes after suppression within each class."""
        scores = raw["class_logits"].float().softmax(dim=-1)[..., 1:]
        boxes = bx.decode(raw["box_codes"].float(), raw["anchors"].float())
        found: list[Prediction] = []
        for image_scores, image_boxes, (height, width) in zip(scores, boxes, sizes, strict=True):
            limits = image_boxes.new_tensor([width, height, width, height])
            pixels = torch.minimum((image_boxes * limits).clamp(min=0), limits)
            anchor, label = torch.nonzero(image_scores > self.score_threshold, as_tuple=True)
            values = image_scores[anchor, label]
            if len(values) > _CANDIDATES:
                values, best = values.topk(_CANDIDATES)
                anchor, label = anchor[best], label[best]
            keep = bx.suppress(pixels[anchor], values, label, self.nms_iou, self.max_detections)
            found.append(
                Detections(pixels[anchor][keep].cpu().numpy(), label[keep].cpu().numpy(), values[keep].cpu().numpy())
            )
        return found


HEADS.register("ssd")(partial(SSD, separable=False))


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


def _by_anchor(prediction: Tensor, values: int) -> Tensor:
    """``(B, shapes * values, H, W) -> (B, H * W * shapes, values)``, in the order of the anchors."""
    return prediction.permute(0, 2, 3, 1).reshape(prediction.shape[0], -1, values)


def _hard_negatives(losses: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
    """Marks in each image the background anchors of highest loss, three for each positive and three at least."""
    candidates = losses.masked_fill(positive | ignored, -1.0)
    rank = candidates.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wanted = (NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True)).clamp(min=LEAST_NEGATIVES)
    return (rank < wanted) & (candidates >= 0)
