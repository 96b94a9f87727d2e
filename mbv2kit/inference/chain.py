"""A second model that classifies what a detector finds: each box is cut out of the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from mbv2kit.errors import UserError
from mbv2kit.imaging.resizing import cut_box
from mbv2kit.inference.results import Result
from mbv2kit.inference.stages import Stages
from mbv2kit.structures import BoxClasses, Detections, Image, Prediction, Task

if TYPE_CHECKING:
    from mbv2kit.inference.predictor import Predictor

# Cut-outs in a batch, where the network takes any number: all those of a crowded image would take gigabytes.
_AT_A_TIME = 16

# The prediction of each task.
Predictions = Mapping[Task, Prediction]


@dataclass(frozen=True, slots=True)
class BoxClassifier:
    """Classifies the boxes of a detector.

    Attributes:
        predictor: A model with a classifier.
        margin: What is added around a box on each side, as a share of its width and height.

    Raises:
        UserError: The model does not classify, or the margin is below 0.
    """

    predictor: "Predictor"
    margin: float

    def __post_init__(self) -> None:
        if "classification" not in self.predictor.class_names:
            raise UserError(
                f"A second model must classify, but this one does {' and '.join(self.predictor.class_names)}; "
                "load one with a classifier."
            )
        if not isinstance(self.margin, Real) or not 0 <= self.margin < float("inf"):
            raise UserError(f"margin must be a number of at least 0, got {self.margin!r}.")

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, by class id."""
        return self.predictor.class_names["classification"]

    def add_classes(
        self, images: Sequence[Image], predicted: Sequence[Predictions | str], min_score: float, stages: Stages
    ) -> list[Predictions | str]:
        """Classifies the boxes of some images, in batches that may hold boxes of several images.

        Args:
            images: ``(H, W, 3)`` uint8 RGB at full size.
            predicted: What the detector predicts for each image, in its pixels, or why it predicts nothing.
            min_score: Boxes of a lower score are left out, 0..1.
            stages: Adds up the time that it takes.

        Returns:
            The same with a class for each box, or why there is none.
        """
        found = [None if isinstance(each, str) else _boxes_in(each, min_score) for each in predicted]
        boxes = [
            (image, box) for image, each in zip(images, found, strict=True) if each is not None for box in each.boxes
        ]
        size = self.predictor.batch or _AT_A_TIME
        results: list[Result] = []
        for start in range(0, len(boxes), size):
            cut = [cut_box(image, box, self.margin) for image, box in boxes[start : start + size]]
            results += self.predictor.predict(cut, stages=stages)
        rest = iter(results)
        classified: list[Predictions | str] = []
        for each, detections in zip(predicted, found, strict=True):
            if isinstance(each, str) or detections is None:
                classified.append(each)
                continue
            best = _best(list(islice(rest, len(detections.boxes))))
            classified.append(best if isinstance(best, str) else {**each, "detection": replace(detections, then=best)})
        return classified


def _boxes_in(predictions: Predictions, min_score: float) -> Detections:
    detections = predictions["detection"]
    assert isinstance(detections, Detections)
    return detections.at_least(min_score)


def _best(results: Sequence[Result]) -> BoxClasses | str:
    """Returns the best class of each cut-out, or why one of them has none."""
    error = next((result.error for result in results if result.error is not None), None)
    if error is not None:
        return error
    classes = [result["classification"] for result in results]
    return BoxClasses(
        np.array([each.class_ids[0] for each in classes], dtype=np.int64),
        np.array([each.scores[0] for each in classes], dtype=np.float32),
    )
