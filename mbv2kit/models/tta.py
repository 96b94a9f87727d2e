"""Test-time augmentation: a session that runs a model on several sizes of each input, plain and mirrored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mbv2kit.errors import UserError, check_choice
from mbv2kit.heads import Head
from mbv2kit.heads.registry import Raw
from mbv2kit.imaging.postprocess import DETECTIONS, NmsOptions, Outputs, output_name
from mbv2kit.models.box_fusion import fuse_boxes
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Detections, Input, Prediction

Augmentation = Literal["none", "multiscale_flip"]
# DeepLab's.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# Objects of half or nearly twice the size that a detector was trained on are found worse than in the plain input.
DETECTION_SCALES = (0.75, 1.0, 1.25)
_LEAST, _MOST = 0.1, 4.0
# The largest stride of all backbones.
_GRID = 32


def check_tta(tta: str, scales: Sequence[float] | None = None) -> None:
    """Raises :class:`UserError` unless ``tta`` is the name of an augmentation and ``scales`` are its scales."""
    # A configuration may hold anything.
    check_choice("tta", str(tta), Augmentation)
    if scales is None:
        return
    numbers = isinstance(scales, list | tuple) and all(isinstance(scale, int | float) for scale in scales)
    if not numbers or not scales or not all(_LEAST <= scale <= _MOST for scale in scales):
        raise UserError(f"tta.scales must be factors in {_LEAST}..{_MOST}, such as [0.75,1,1.25], got {scales}.")


def scaled_side(side: int, scale: float) -> int:
    """Returns the pixels of an input's side at another scale.

    A side of 16 k + 1 pixels, whose corners lie on those of the map, becomes ``(side - 1) * scale + 1``, as in
    DeepLab's code: 513 becomes 257, 385, 513, 641, 769 and 897. Any other side becomes the nearest multiple of 32,
    which every stride divides.
    """
    if scale == 1:
        return side
    if side % 16 == 1:
        return int((side - 1) * scale + 1)
    return _GRID * max(1, int(side * scale / _GRID + 0.5))


@runtime_checkable
class Enlarging(Protocol):
    """A segmentation head whose raw tensor ``logits`` ``(B, num_classes, h, w)`` can be enlarged to any size."""

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolates logits to ``size`` pixels, (height, width)."""


@dataclass(frozen=True, slots=True)
class View:
    """The raw outputs of one view of a batch of inputs.

    Attributes:
        size: Height and width of the view.
        mirrored: Whether left and right were exchanged.
        raw: Raw tensors of each head.
    """

    size: tuple[int, int]
    mirrored: bool
    raw: Mapping[str, Raw]


class MultiScaleFlip:
    """Runs a model on each input at several scales, plain and mirrored (MobileNetV2, Table 7 and Figure 8).

    Probabilities are averaged over all views: those of the classes, and those of each pixel after the logits of a view
    are enlarged to the input's size. Boxes of different views that show one object become their mean, with the mean of
    their scores; a view that does not show it counts as 0.

    The views scale the input, not the image, as DeepLab's code does. They agree about positions under every kind of
    preprocessing (``pad`` would not enlarge an image), and inputs are made once. Only images that preprocessing shrinks
    have more detail than the larger views show.

    One view is computed at a time. The raw outputs of all views are kept, which are small; masks are averaged image by
    image.

    Args:
        model: Model in evaluation mode.
        scales: Scales of the views; :func:`scaled_side` rounds the sizes, and a size counts once. None for
            :data:`DETECTION_SCALES` of a detector and :data:`SCALES` of other heads.
        flip: Whether each view is also mirrored.

    Raises:
        UserError: A segmentation head has no logits to average.
    """

    def __init__(self, model: VisionModel, scales: Sequence[float] | None = None, flip: bool = True) -> None:
        self._model = model
        self._scales = {name: tuple(scales or _default_scales(head)) for name, head in model.heads.items()}
        self._mirrored = (False, True) if flip else (False,)
        for name, head in model.heads.items():
            if head.task == "segmentation" and not isinstance(head, Enlarging):
                kind = model.spec.heads[name]["name"]
                raise UserError(f"tta=multiscale_flip cannot average the masks of head '{kind}'; set tta=none.")

    @torch.inference_mode()
    def __call__(self, images: Input) -> Outputs:
        """Computes the outputs for ``(B, H, W, 3)`` RGB inputs; a detector's are ``detections``.

        Raises:
            UserError: The model does not accept the size of a view.
        """
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).to(self._model.mean.device)
        size = (tensor.shape[2], tensor.shape[3])
        sizes = {
            name: [(scaled_side(size[0], scale), scaled_side(size[1], scale)) for scale in scales]
            for name, scales in self._scales.items()
        }
        views = [
            self._view(tensor, each, mirrored)
            for each in dict.fromkeys(each for those in sizes.values() for each in those)
            for mirrored in self._mirrored
        ]
        outputs: dict[str, NDArray[Any]] = {}
        for name, head in self._model.heads.items():
            own = [view for view in views if view.size in sizes[name]]
            if isinstance(head, Enlarging):
                masks = [_average_mask(head, name, own, i, size) for i in range(len(images))]
                outputs[output_name(name, "mask")] = np.stack(masks)
            elif head.nms_options is not None:
                outputs[output_name(name, DETECTIONS)] = _join_boxes(head, name, own, size, head.nms_options)
            else:
                outputs[output_name(name, "probabilities")] = _average_classes(head, name, own)
        return outputs

    def _view(self, images: Tensor, size: tuple[int, int], mirrored: bool) -> View:
        # Mirroring comes before scaling: a mirrored input then has exactly the same views in another order.
        view = _resize(images.flip(3) if mirrored else images, size)
        try:
            return View(size, mirrored, self._model(view))
        except UserError as error:
            raise UserError(f"tta=multiscale_flip also uses inputs of {size[0]} x {size[1]} pixels: {error}") from None


def _default_scales(head: Head) -> tuple[float, ...]:
    return SCALES if head.nms_options is None else DETECTION_SCALES


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes ``(B, 3, H, W)`` uint8, by averages where images shrink and by interpolation where they grow."""
    if (images.shape[2], images.shape[3]) == size:
        return images
    # Edges are aligned: boxes need it, and torch averages wrongly with aligned corners. For a head with aligned corners
    # the border is off by half a pixel, a small part of a step of its map.
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _average_mask(
    head: Enlarging, name: str, views: Sequence[View], index: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    # For a mirrored input the two sums change places, so its mask is exactly the mirrored one.
    sums: dict[bool, Tensor] = {}
    for view in views:
        logits = head.enlarge(view.raw[name]["logits"][index : index + 1].float(), size)
        probabilities = logits.softmax(dim=1)[0]
        if view.mirrored:
            probabilities = probabilities.flip(2)
        sums[view.mirrored] = sums[view.mirrored] + probabilities if view.mirrored in sums else probabilities
    mask = torch.stack(list(sums.values())).sum(dim=0).argmax(dim=0)
    return mask.cpu().numpy().astype(np.uint8)


def _average_classes(head: Head, name: str, views: Sequence[View]) -> NDArray[np.float32]:
    total: NDArray[np.float32] = sum(
        head.outputs(view.raw[name], view.size)["probabilities"].cpu().numpy() for view in views
    )  # type: ignore[assignment]
    return total / np.float32(len(views))


def _join_boxes(
    head: Head, name: str, views: Sequence[View], size: tuple[int, int], options: NmsOptions
) -> NDArray[np.float32]:
    """Returns ``detections`` ``(B, K, 6)``; rows of score 0 fill up shorter lists."""
    decoded = []
    for view in views:
        raw, scale = view.raw[name], (view.size[0] / size[0], view.size[1] / size[1])
        decoded.append(head.decode(raw if view.size == size else head.at_scale(raw, scale), view.size))
    images = [
        fuse_boxes([_to_input(*each, size) for each in zip(predictions, views, strict=True)], options)
        for predictions in zip(*decoded, strict=True)
    ]
    rows = np.zeros((len(images), max(len(found.boxes) for found in images), 6), dtype=np.float32)
    for row, found in zip(rows, images, strict=True):
        row[: len(found.boxes)] = np.column_stack([found.boxes, found.scores, found.class_ids])
    return rows


def _to_input(prediction: Prediction, view: View, size: tuple[int, int]) -> Detections:
    """Converts the boxes of a view to pixels of the input."""
    assert isinstance(prediction, Detections)
    height, width = size
    y, x = height / view.size[0], width / view.size[1]
    boxes = prediction.boxes * np.array([x, y, x, y], dtype=np.float32)
    if view.mirrored:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    return Detections(boxes, prediction.class_ids, prediction.scores)
