"""The types that pass between the parts of mbv2kit: a sample of a data set, and a prediction of each task.

Conventions everywhere: images are RGB uint8, HWC in numpy; boxes are ``(x1, y1, x2, y2)`` in absolute pixels, float32
and continuous (the box of a whole W x H image is ``[0, 0, W, H]``); masks hold a class index per pixel, 255 = ignore;
class ids count from 0 without gaps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError

Task = Literal["classification", "detection", "segmentation"]
TASKS: tuple[Task, ...] = ("classification", "detection", "segmentation")
# What the task of a model with several heads, and of its metrics, is called.
MULTITASK = "multitask"
IGNORE = 255

Image = NDArray[np.uint8]
# ``(H, W, 3)`` or ``(B, H, W, 3)`` RGB in 0..255, resized for a network: uint8, or float32 where its preprocessing does
# not round.
Input = NDArray[Any]
Boxes = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """The objects of an image as COCO's protocol evaluates them: not clipped, with those that have no area.

    Attributes:
        boxes: ``(M, 4)`` float64 ``x, y, width, height`` in pixels, as the annotation file gives them.
        class_ids: ``(M,)`` int64.
        crowd: ``(M,)`` bool, COCO's ``iscrowd``.
        areas: ``(M,)`` float64, the area of each object in pixels, usually that of its outline.
        order: Position of the image in the order of COCO's image ids, which decides between equal scores.
    """

    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    order: int


@dataclass(slots=True, kw_only=True)
class Sample:
    """One image of a data set and its ground truth; what the source does not provide is None.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB.
        image_id: Name of the image within its data set, usually its relative path.
        label: Class of the whole image.
        boxes: ``(N, 4)`` float32 ``xyxy`` pixels; ``(0, 4)`` if the image holds no object.
        labels: ``(N,)`` int64, the class of each box.
        crowd: ``(N,)`` bool, True for a box around a group of objects, which evaluation ignores (COCO's ``iscrowd``).
        mask: ``(H, W)`` uint8, a class per pixel, 255 = ignore.
        annotated: What average precision is measured against, if it is not ``boxes``; None after augmentation.
        heads: For each task whose ground truth is that of a head with a name of its own, the name.
    """

    image: Image
    image_id: str
    label: int | None = None
    boxes: Boxes | None = None
    labels: NDArray[np.int64] | None = None
    crowd: NDArray[np.bool_] | None = None
    mask: NDArray[np.uint8] | None = None
    annotated: Annotated | None = None
    heads: Mapping[Task, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W, 3) uint8, got {self.image.shape} {self.image.dtype}")
        if self.boxes is not None:
            count = len(self.boxes)
            if self.boxes.shape != (count, 4):
                raise ValueError(f"boxes must be (N, 4), got {self.boxes.shape}")
            if self.labels is None or self.labels.shape != (count,):
                raise ValueError(f"{count} boxes need as many labels, got {self.labels}")
            if self.crowd is None:
                self.crowd = np.zeros(count, dtype=np.bool_)
        if self.mask is not None and self.mask.shape != self.image.shape[:2]:
            raise ValueError(f"mask must be of the image's size {self.image.shape[:2]}, got {self.mask.shape}")


@dataclass(frozen=True, slots=True)
class Classification:
    """The classes of one image, most likely first.

    Attributes:
        class_ids: ``(K,)`` int64, by descending score.
        scores: ``(K,)`` float32 in 0..1.
    """

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.class_ids.ndim != 1 or self.class_ids.shape != self.scores.shape:
            raise ValueError(f"class_ids and scores must be (K,), got {self.class_ids.shape} and {self.scores.shape}")


@dataclass(frozen=True, slots=True)
class BoxClasses:
    """The best class of each box by a second model, which classified the cut-outs.

    Attributes:
        class_ids: ``(N,)`` int64.
        scores: ``(N,)`` float32 in 0..1.
    """

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Detections:
    """The objects found in one image, highest score first.

    Attributes:
        boxes: ``(N, 4)`` float32 ``xyxy`` pixels.
        class_ids: ``(N,)`` int64.
        scores: ``(N,)`` float32 in 0..1.
        then: The classes of the ``N`` boxes by a second model; None without one.
    """

    boxes: Boxes
    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    then: BoxClasses | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4):
            raise ValueError(f"boxes must be (N, 4), got {self.boxes.shape}")
        if self.class_ids.shape != (count,) or self.scores.shape != (count,):
            raise ValueError(
                f"{count} boxes need as many class_ids and scores, got {self.class_ids.shape} and {self.scores.shape}"
            )
        if self.then is not None and self.then.class_ids.shape != (count,):
            raise ValueError(f"{count} boxes need as many classes of a second model, got {self.then.class_ids.shape}")

    def at_least(self, score: float) -> "Detections":
        """Returns the objects whose score is ``score`` or higher."""
        kept = self.scores >= score
        then = None if self.then is None else BoxClasses(self.then.class_ids[kept], self.then.scores[kept])
        return Detections(self.boxes[kept], self.class_ids[kept], self.scores[kept], then)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The class of every pixel of one image.

    Attributes:
        mask: ``(H, W)`` uint8 class index.
    """

    mask: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.uint8:
            raise ValueError(f"mask must be (H, W) uint8, got {self.mask.shape} {self.mask.dtype}")


Prediction = Classification | Detections | Segmentation


def tasks_of_heads(heads: Iterable[str], own: Mapping[str, Task]) -> dict[str, Task]:
    """Returns the task of each head.

    Args:
        heads: The names of the heads, which are those of their tasks or names of their own.
        own: The tasks of heads with names of their own.

    Raises:
        UserError: The task of a head is unknown.
    """
    tasks: dict[str, Task] = {task: task for task in TASKS}
    for head in heads:
        if head not in tasks and head not in own:
            raise UserError(
                f"heads.{head}: a head has the name of its task ({', '.join(TASKS)}), or tasks.{head} names that."
            )
    return {head: tasks[head] if head in tasks else own[head] for head in heads}


def metric_name(head: str, metric: str) -> str:
    """Returns what a metric of a head is called next to those of other heads: ``top1``, or ``color/top1``."""
    return metric if head in TASKS else f"{head}/{metric}"
