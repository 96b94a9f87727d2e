"""YOLOv2, from YOLO9000: Better, Faster, Stronger. Redmon and Farhadi, CVPR 2017, arXiv 1612.08242."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.errors import UserError
from mbv2kit.heads.anchor_clusters import cluster_shapes, mean_iou
from mbv2kit.heads.registry import HEADS, Head, Raw, Shapes, Targets
from mbv2kit.heads.yolo_loss import decode_boxes, yolo_loss
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.nn.features import FeatureInfo, choose_maps
from mbv2kit.nn.layers import ConvNormAct, ConvStyle, NormOptions, initialize
from mbv2kit.schema.rules import FILLED, Channels, Name, above, between

_log = logging.getLogger(__name__)

_Side = Annotated[float, above(0, 1)]
# Width and height in fractions of the input; anchors in grid cells are divided by the number of cells.
Anchor = tuple[_Side, _Side]

# The authors' clusters of COCO boxes: width and height in cells of a 13 x 13 grid.
COCO_ANCHORS = ((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828))
COCO_GRID = 13


@HEADS.register("yolo_v2")
class YOLOv2(Head):
    """Boxes from one grid of stride 32, each cell of which stretches and scores a few anchors.

    Two 3 x 3 convolutions process the last map. The map of stride 16 is folded to a quarter of its pixels and four
    times its channels and concatenated with the result (the passthrough layer); a third 3 x 3 and a 1 x 1 convolution
    predict. Zeros are added if an odd side of the finer map makes it a row or column too small.

    The last layer starts near zero, so initial boxes are close to the anchors in the middle of their cells. The
    authors' program first needs an extra loss term for 12,800 images to pull them there.

    Raw tensors: ``box_codes`` ``(B, H, W, A, 4)``, t_x, t_y, t_w and t_h; ``objectness_logits`` ``(B, H, W, A)``;
    ``class_logits`` ``(B, H, W, A, num_classes)``; ``anchors`` ``(A, 2)``, as in the argument.

    Args:
        feature_info: Feature maps of the backbone.
        num_classes: Number of classes.
        anchors: [width, height] of each anchor of a cell, as fractions of the input's width and height. null: training
            finds them in the boxes of its training split; without data they are the authors' five for COCO.
        num_anchors: Number of anchors that training finds if ``anchors`` is null.
        passthrough_channels: Channels to which a 1 x 1 convolution reduces the finer map before it is folded; null for
            no convolution, as in the older of the authors' two configurations.
        channels: Channels of the three 3 x 3 convolutions.
        maps: Names of the finer and the last map of the backbone; null takes the deepest of strides 16 and 32.
        nms: Which of its boxes the head returns; a score is objectness times class.
        norm: How batch normalization computes.

    Raises:
        UserError: An argument is out of range, or the backbone lacks a map.
    """

    task = "detection"
    box_predictor = "predictor"
    fewest_steps = 200
    anchors: Tensor

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        anchors: Annotated[Sequence[Anchor], FILLED] | None = None,
        num_anchors: Annotated[int, between(1, 1000)] = len(COCO_ANCHORS),
        passthrough_channels: Channels | None = 64,
        channels: Channels = 1024,
        maps: tuple[Name, Name] | None = None,
        nms: NmsOptions = NmsOptions(score_threshold=0.005, nms_iou=0.45, max_detections=100),
        norm: NormOptions = NormOptions(norm_eps=1e-5, norm_momentum=0.03),
    ) -> None:
        super().__init__()
        self.nms_options = nms
        self.register_buffer("anchors", torch.tensor(_checked(anchors, num_anchors)), persistent=False)
        near, far = choose_maps(feature_info, maps, strides=(16, 32))
        if far.stride != 2 * near.stride:
            raise UserError(
                f"maps must be two maps of which the second has twice the stride of the first, got '{near.name}' "
                f"of stride {near.stride} and '{far.name}' of stride {far.stride}."
            )
        self.features = (near.name, far.name)
        style = ConvStyle(norm=norm, activation=partial(nn.LeakyReLU, 0.1, inplace=True))
        self.deep = nn.Sequential(
            ConvNormAct(far.channels, channels, 3, style=style), ConvNormAct(channels, channels, 3, style=style)
        )
        passed = near.channels if passthrough_channels is None else passthrough_channels
        self.passthrough: nn.Module = nn.Identity()
        if passthrough_channels is not None:
            self.passthrough = ConvNormAct(near.channels, passed, 1, style=style)
        self.joined = ConvNormAct(4 * passed + channels, channels, 3, style=style)
        self.predictor = nn.Conv2d(channels, len(self.anchors) * (5 + num_classes), 1)
        initialize(self)
        nn.init.normal_(self.predictor.weight, std=0.01)

    @classmethod
    def options_from_data(cls, options: Mapping[str, Any], box_shapes: Callable[[], Shapes]) -> dict[str, Any]:
        """Returns the options with anchors: the given ones, or else clusters of the training split's boxes.

        Raises:
            UserError: ``num_anchors`` is below 1, or there is no box.
        """
        if options.get("anchors") is not None:
            return dict(options)
        shapes = box_shapes()
        if not len(shapes):
            raise UserError("The training split has no box to find anchors in; give them, or name another split.")
        found = cluster_shapes(shapes, options.get("num_anchors", len(COCO_ANCHORS)))
        # Four digits are finer than a pixel of any input.
        anchors = [[float(f"{side:.4g}") for side in anchor] for anchor in found.tolist()]
        _log.info(
            "%d anchors from %d boxes, with a mean IoU of %.1f %%: anchors=%s",
            len(anchors),
            len(shapes),
            100 * mean_iou(shapes, np.array(anchors)),
            anchors,
        )
        return {**options, "anchors": anchors}

    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Predicts a box, its objectness and its class for every anchor of every cell."""
        near, far = (features[name] for name in self.features)
        deep, passed = self.deep(far), self.passthrough(near)
        bottom, right = (2 * far.shape[side] - passed.shape[side] for side in (2, 3))
        folded = F.pixel_unshuffle(F.pad(passed, (0, right, 0, bottom)), 2)
        prediction = self.predictor(self.joined(torch.cat([folded, deep], dim=1)))
        cells = prediction.unflatten(1, (len(self.anchors), -1)).permute(0, 3, 4, 1, 2)
        return {
            "box_codes": cells[..., :4],
            "objectness_logits": cells[..., 4],
            "class_logits": cells[..., 5:],
            "anchors": self.anchors,
        }

    def loss(self, raw: Raw, targets: Targets) -> dict[str, Tensor]:
        """Computes squared errors of boxes and objectness and the softmax loss of classes, summed over predictions.

        One prediction learns each object: its box (small boxes have a larger weight), an objectness equal to the IoU of
        that prediction with the object (scale 5), and its class. All others learn an objectness of 0, except those with
        an IoU of 0.6 or more with some object. Crowd regions are neither objects nor background. The class loss is
        cross-entropy: its gradient, softmax minus ground truth, is that of the authors' program.

        Reads ``boxes``, ``labels``, ``crowd`` and ``size``; divides by the number of images.
        """
        return yolo_loss(raw, targets)

    def at_scale(self, raw: Raw, scale: tuple[float, float]) -> Raw:
        """Returns the raw tensors with anchors of as many pixels as in an input of the usual size."""
        return {**raw, "anchors": raw["anchors"] / raw["anchors"].new_tensor([scale[1], scale[0]])}

    def outputs(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """Computes ``boxes`` and ``scores`` of all anchors of all cells; a score is objectness times class."""
        boxes = decode_boxes(raw["box_codes"].float(), raw["anchors"].float())
        scores = raw["objectness_logits"].float().sigmoid()[..., None] * raw["class_logits"].float().softmax(dim=-1)
        return {"boxes": boxes.flatten(1, 3), "scores": scores.flatten(1, 3)}


def _checked(anchors: Sequence[Sequence[float]] | None, num_anchors: int) -> list[list[float]]:
    """Returns the given anchors, or else the authors' five as fractions of the input."""
    if anchors is None:
        if num_anchors != len(COCO_ANCHORS):
            raise UserError(
                f"num_anchors is {num_anchors}, but without training data there are {len(COCO_ANCHORS)} anchors; "
                "set anchors instead."
            )
        return [[side / COCO_GRID for side in anchor] for anchor in COCO_ANCHORS]
    return [list(anchor) for anchor in anchors]
