"""The base of all variants of SSD (Liu et al., ECCV 2016): predictions per anchor, their loss, their decoding."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.heads.objects import in_crowd, objects_in
from mbv2kit.heads.registry import Head, Raw, Targets
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.nn import boxes as bx
from mbv2kit.nn.tensors import to_device

Scores = Literal["softmax", "sigmoid"]

NEGATIVES_PER_POSITIVE = 3
# Score of a class before it is learned.
_PRIOR = 0.01
# An image without objects has no positives, but it must teach background.
LEAST_NEGATIVES = 3


class MultiBox(Head):
    """Boxes from several feature maps, each cell of which scores a few anchors.

    A variant of SSD sets ``features``, ``shapes``, ``classifiers`` and ``regressors``, and its ``forward`` passes the
    maps to :meth:`predict`.

    Raw tensors: ``class_logits`` ``(B, A, num_classes + 1)``, background first; ``box_codes`` ``(B, A, 4)``;
    ``anchors`` ``(A, 4)`` on the unit square; with ``steps`` also ``covered`` ``(A, 2)`` of
    :func:`~mbv2kit.nn.boxes.covered_pixels`, by which they move as soon as the size of the input is known.

    Args:
        num_classes: Number of classes, without background.
        match_iou: IoU from which an anchor counts as an object.
        nms: Which of its boxes the head returns.
        scores: How class logits become scores, and which loss teaches them: ``softmax`` over the classes and the
            background, or a ``sigmoid`` of each, as in TensorFlow's Object Detection API.

    Attributes:
        shapes: (width, height) of a cell's anchors for each map, as :func:`~mbv2kit.nn.boxes.make_anchors` takes them.
        steps: Input pixels between the cells of each map, None for even ones; None if all are even.
        classifiers: The layer of each map that predicts class logits.
        regressors: The layer of each map that predicts box codes.

    Raises:
        UserError: An argument is out of range.
    """

    task = "detection"
    box_predictor = "regressors"
    fewest_steps = 200
    shapes: bx.Cells
    steps: Sequence[float | None] | None = None
    classifiers: nn.ModuleList
    regressors: nn.ModuleList

    def __init__(self, num_classes: int, *, match_iou: float, nms: NmsOptions, scores: Scores = "softmax") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.scores = scores
        self.match_iou = match_iou
        self.nms_options = nms

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps, finest first: those of the backbone, then ``extra_1`` and so on."""
        further = len(self.classifiers) - len(self.features)
        return (*self.features, *(f"extra_{place}" for place in range(1, further + 1)))

    def predict(self, maps: Sequence[Tensor]) -> Raw:
        """Predicts class logits and box codes for every anchor of every map, ``(B, C, H, W)`` each, finest first."""
        logits = [_by_anchor(conv(x), self.num_classes + 1) for conv, x in zip(self.classifiers, maps, strict=True)]
        codes = [_by_anchor(conv(x), 4) for conv, x in zip(self.regressors, maps, strict=True)]
        grids = [(x.shape[2], x.shape[3]) for x in maps]
        # The finest grid has the aspect ratio of the input, up to one cell.
        anchors = to_device(bx.make_anchors(grids, self.shapes, grids[0]), maps[0].device)
        raw = {"class_logits": torch.cat(logits, dim=1), "box_codes": torch.cat(codes, dim=1), "anchors": anchors}
        if self.steps is not None:
            raw["covered"] = to_device(bx.covered_pixels(grids, self.shapes, self.steps), anchors.device)
        return raw

    def loss(self, raw: Raw, targets: Targets) -> dict[str, Tensor]:
        """Class loss with hard negatives 3:1 and smooth L1 on matched anchors, over the number of matches.

        Reads ``boxes``, ``labels``, ``crowd`` and ``size``; crowd regions are neither objects nor background.
        """
        logits, codes, anchors = raw["class_logits"].float(), raw["box_codes"].float(), _placed(raw, targets["size"])
        classes, objects, crowded = self._match(anchors, targets)
        positive = classes > 0
        losses = self._class_losses(logits, classes)
        kept = positive | _hard_negatives(losses.detach(), positive, crowded & ~positive)
        count = positive.sum().clamp(min=1)
        errors = F.smooth_l1_loss(codes, bx.encode(objects, anchors), reduction="none")
        return {
            "classification": (losses * kept).sum() / count,
            "localization": errors.masked_fill(~positive[..., None], 0.0).sum() / count,
        }

    @torch.no_grad()
    def count(self, raw: Raw, targets: Targets) -> Tensor:
        """Returns the number of matched anchors."""
        classes, _, _ = self._match(_placed(raw, targets["size"]), targets)
        return (classes > 0).sum()

    def _match(self, anchors: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Returns for each anchor of each image what it is to learn.

        Returns:
            Its class ``(B, A)``, 0 for background; its object ``(B, A, 4)`` on the unit square; and whether it lies in
            a crowd region ``(B, A)``.
        """
        found = objects_in(targets)
        # Not filled up, since one image may have a hundred times the boxes of another.
        boxes = bx.to_unit(torch.cat(list(targets["boxes"])), targets["size"])
        crowd, sizes = torch.cat(list(targets["crowd"])), [len(each) for each in targets["boxes"]]
        shared = bx.intersection(boxes, anchors)
        overlaps = bx.share_of_union(shared, boxes, anchors).masked_fill(crowd[:, None], -1.0)
        # Anchors without an object, at -1, get what is put before the first: background.
        place = bx.match(torch.split(overlaps, sizes), self.match_iou) + 1
        classes = F.pad(found.labels + 1, (1, 0)).gather(1, place)
        objects = F.pad(found.boxes, (0, 0, 1, 0)).gather(1, place[..., None].expand(-1, -1, 4))
        regions = zip(torch.split(shared, sizes), torch.split(crowd, sizes), strict=True)
        return classes, objects, torch.stack([in_crowd(anchors, *each) for each in regions])

    def _class_losses(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Returns the loss of each anchor, ``(B, A)``, whose class is 0 for background."""
        if self.scores == "softmax":
            return F.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
        wanted = F.one_hot(classes, logits.shape[-1]).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=-1)

    def at_scale(self, raw: Raw, scale: tuple[float, float]) -> Raw:
        """Returns the raw tensors with anchors of as many pixels as in an input of the usual size."""
        corners = raw["anchors"]
        centers, half_sizes = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
        half_sizes = half_sizes / half_sizes.new_tensor([scale[1], scale[0]])
        return {**raw, "anchors": torch.cat([centers - half_sizes, centers + half_sizes], dim=1)}

    @torch.no_grad()
    def doubt_all_classes(self) -> None:
        """Lets every class score about 0.01 in a fresh head whose classes have a sigmoid each.

        Scores of 0.5 would make the first steps teach that most classes are absent, and nothing else (RetinaNet, Lin
        et al., ICCV 2017, Section 4.1).
        """
        for classifier in self.classifiers:
            *_, last = (part for part in classifier.modules() if isinstance(part, nn.Conv2d))
            assert last.bias is not None
            last.bias.view(-1, self.num_classes + 1)[:, 1:] = math.log(_PRIOR / (1 - _PRIOR))

    def outputs(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """Computes ``boxes`` and ``scores`` of all anchors."""
        logits = raw["class_logits"].float()
        scores = logits.softmax(dim=-1) if self.scores == "softmax" else logits.sigmoid()
        return {"boxes": bx.decode(raw["box_codes"].float(), _placed(raw, size).float()), "scores": scores[..., 1:]}


def _placed(raw: Raw, size: tuple[int, int]) -> Tensor:
    """Returns the anchors where they lie in an input of that height and width."""
    anchors = raw["anchors"]
    return bx.move_to_steps(anchors, raw["covered"], size) if "covered" in raw else anchors


def _by_anchor(prediction: Tensor, values: int) -> Tensor:
    """``(B, shapes * values, H, W) -> (B, H * W * shapes, values)``, in the order of the anchors."""
    return prediction.permute(0, 2, 3, 1).reshape(prediction.shape[0], -1, values)


def _hard_negatives(losses: Tensor, positive: Tensor, ignored: Tensor) -> Tensor:
    """Marks in each image the background anchors of highest loss, three for each positive and three at least."""
    candidates = losses.masked_fill(positive | ignored, -1.0)
    wanted = (NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True)).clamp(LEAST_NEGATIVES, candidates.shape[1])
    hardest = candidates.argsort(dim=1, descending=True, stable=True)
    marked = torch.arange(hardest.shape[1], device=hardest.device) < wanted
    return torch.zeros_like(positive).scatter(1, hardest, marked) & (candidates >= 0)
