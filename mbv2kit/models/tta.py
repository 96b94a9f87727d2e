"""Test-time augmentation: a model that sees every image at several sizes, each of them mirrored as well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mbv2kit.errors import UserError, check_choice
from mbv2kit.heads import Head
from mbv2kit.heads.registry import Raw
from mbv2kit.imaging.postprocess import NmsOptions, suppress
from mbv2kit.imaging.preprocess import Placement
from mbv2kit.models.vision_model import ModelWrapper, VisionModel
from mbv2kit.structures import Classification, Detections, Prediction, Segmentation, Task

Augmentation = Literal["none", "multiscale_flip"]
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# The coarsest stride of the networks here.
_GRID = 32


def augmented(model: VisionModel, tta: str) -> "VisionModel | MultiScaleFlip":
    """Returns the model under the test-time augmentation that the key ``tta`` names; see :func:`check_tta`."""
    check_tta(tta)
    return MultiScaleFlip(model) if tta == "multiscale_flip" else model


def check_tta(tta: str) -> None:
    """Raises :class:`UserError` unless ``tta`` is the name of an augmentation."""
    # A configuration may hold anything.
    check_choice("tta", str(tta), Augmentation)


def scaled_side(side: int, scale: float) -> int:
    """Returns the pixels of an input's side at another scale.

    A side of 16 k + 1 pixels, whose corners lie on those of the map, becomes ``(side - 1) * scale + 1``, as in
    DeepLab's code: 513 becomes 257, 385, 513, 641, 769 and 897. Any other side becomes the nearest multiple of 32, in
    which the steps of every map fit without a rest.
    """
    if scale == 1:
        return side
    if side % 16 == 1:
        return int((side - 1) * scale + 1)
    return _GRID * max(1, int(side * scale / _GRID + 0.5))


@runtime_checkable
class Enlarging(Protocol):
    """A segmentation head whose raw tensor ``logits`` ``(B, num_classes, h, w)`` can be brought to any size."""

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolates logits to ``size`` pixels, (height, width)."""


@dataclass(frozen=True, slots=True)
class View:
    """What the heads said about one view of a batch of inputs.

    Attributes:
        size: Height and width of the view.
        mirrored: Whether left and right were exchanged.
        raw: For each task the raw tensors of its head.
    """

    size: tuple[int, int]
    mirrored: bool
    raw: Mapping[str, Raw]


class MultiScaleFlip(ModelWrapper):
    """Wraps a model, and has it see each input at several scales and mirrored (MobileNetV2, Table 7 and Figure 8).

    Probabilities are averaged over all views: of classes, and of the class of each pixel, after the view's logits were
    enlarged to the input's size. Boxes of all views are joined and suppressed once more within each class.

    It is the input that is scaled, not the image anew, as in DeepLab's code. So the views agree about what lies
    where under every input rule (``pad`` would not enlarge an image), inputs are made once and by the same processes
    as ever, and whatever calls a model can call this. Only an image that the rule made smaller has more detail than
    the larger views show.

    One view is computed at a time. What the heads say about it is kept until all are there, and is small; masks are
    then averaged image by image.

    Args:
        model: In evaluation mode.
        scales: Of the views; a size of the input is rounded by :func:`scaled_side`.
        flip: Whether each view is seen mirrored as well.

    Raises:
        UserError: A segmentation head gives no logits that can be averaged.
    """

    def __init__(self, model: VisionModel, scales: Sequence[float] = SCALES, flip: bool = True) -> None:
        super().__init__(model)
        self._scales = tuple(scales)
        self._mirrored = (False, True) if flip else (False,)
        for head in model.heads.values():
            assert isinstance(head, Head)
            if head.task == "segmentation" and not isinstance(head, Enlarging):
                name = model.spec.heads[head.task]["name"]
                raise UserError(f"tta=multiscale_flip cannot average the masks of head '{name}'; set tta=none.")

    @torch.inference_mode()
    def predict_batch(self, images: Tensor, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Sees a batch of inputs in every view; arguments and result are those of the model's method.

        Raises:
            UserError: The model cannot see one of the views.
        """
        size = (images.shape[2], images.shape[3])
        views = [self._see(images, scale, mirrored) for scale in self._scales for mirrored in self._mirrored]
        decoded: dict[Task, list[Prediction]] = {}
        for head in self._model.heads.values():
            assert isinstance(head, Head)
            decoded[head.task] = self._decode(head, views, size, len(images))
        return [
            {task: placement.restore(predictions[i]) for task, predictions in decoded.items()}
            for i, placement in enumerate(placements)
        ]

    def _see(self, images: Tensor, scale: float, mirrored: bool) -> View:
        size = scaled_side(images.shape[2], scale), scaled_side(images.shape[3], scale)
        # Mirrored before it is scaled: a mirrored input then has the very same views in the other order.
        view = _resize(images.flip(3) if mirrored else images, size)
        try:
            return View(size, mirrored, self._model(view))
        except UserError as error:
            raise UserError(f"tta=multiscale_flip shows inputs of {size[0]} x {size[1]} pixels too: {error}") from None

    def _decode(self, head: Head, views: Sequence[View], size: tuple[int, int], count: int) -> list[Prediction]:
        if isinstance(head, Enlarging):
            return [_average_mask(head, views, i, size) for i in range(count)]
        seen = [head.decode(view.raw[head.task], [view.size] * count) for view in views]
        if head.task == "classification":
            return [_average_classes(predictions) for predictions in zip(*seen, strict=True)]
        assert head.nms_options is not None
        return [_join_boxes(predictions, views, size, head.nms_options) for predictions in zip(*seen, strict=True)]


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes ``(B, 3, H, W)`` uint8; averages where they shrink and interpolates where they grow, as images are."""
    if (images.shape[2], images.shape[3]) == size:
        return images
    # Edges lie on edges, for boxes and because torch averages falsely where corners shall lie on corners; a head that
    # wants the latter is off by half a pixel at the border, a small part of a step of its map.
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _average_mask(head: Enlarging, views: Sequence[View], index: int, size: tuple[int, int]) -> Segmentation:
    # A mirrored input has the two sums exchanged, and so exactly the mirrored mask.
    sums: dict[bool, Tensor] = {}
    for view in views:
        logits = head.enlarge(view.raw["segmentation"]["logits"][index : index + 1].float(), size)
        probabilities = logits.softmax(dim=1)[0]
        if view.mirrored:
            probabilities = probabilities.flip(2)
        sums[view.mirrored] = sums[view.mirrored] + probabilities if view.mirrored in sums else probabilities
    mask = torch.stack(list(sums.values())).sum(dim=0).argmax(dim=0)
    return Segmentation(mask.cpu().numpy().astype(np.uint8))


def _average_classes(predictions: Sequence[Prediction]) -> Classification:
    first = predictions[0]
    assert isinstance(first, Classification)
    total = np.zeros_like(first.scores)
    for prediction in predictions:
        assert isinstance(prediction, Classification)
        total[prediction.class_ids] += prediction.scores
    order = np.argsort(-total, kind="stable")
    return Classification(order, total[order] / np.float32(len(predictions)))


def _join_boxes(
    predictions: Sequence[Prediction], views: Sequence[View], size: tuple[int, int], nms_options: NmsOptions
) -> Detections:
    height, width = size
    joined: list[Detections] = []
    for prediction, view in zip(predictions, views, strict=True):
        assert isinstance(prediction, Detections)
        y, x = height / view.size[0], width / view.size[1]
        boxes = prediction.boxes * np.array([x, y, x, y], dtype=np.float32)
        if view.mirrored:
            boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
        joined.append(Detections(boxes, prediction.class_ids, prediction.scores))
    boxes = np.concatenate([found.boxes for found in joined])
    classes = np.concatenate([found.class_ids for found in joined])
    scores = np.concatenate([found.scores for found in joined])
    keep = suppress(boxes, scores, classes, nms_options.nms_iou, nms_options.max_detections)
    return Detections(boxes[keep], classes[keep], scores[keep])
