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
from mbv2kit.structures import BoxClasses, Detections, Image, Prediction

if TYPE_CHECKING:
    from mbv2kit.inference.predictor import Predictor

# Cut-outs in a batch, where the network takes any number: all those of a crowded image would take gigabytes.
_AT_A_TIME = 16

# The prediction of each head.
Predictions = Mapping[str, Prediction]


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
        if len(self._classifiers) != 1:
            raise UserError(
                f"A second model must classify, but this one does {' and '.join(self.predictor.class_names)}; load one "
                "with one classifier, or keep one of its heads: mbv2kit convert tasks=[NAME]."
            )
        if not isinstance(self.margin, Real) or not 0 <= self.margin < float("inf"):
            raise UserError(f"margin must be a number of at least 0, got {self.margin!r}.")

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, by class id."""
        return self.predictor.class_names[self._classifiers[0]]

    @property
    def _classifiers(self) -> list[str]:
        return [head for head, task in self.predictor.spec.tasks.items() if task == "classification"]

    def add_classes(
        self, images: Sequence[Image], predicted: Sequence[Predictions | str], min_score: float, stages: Stages
    ) -> list[Predictions | str]:
        """Classifies the boxes of some images, in batches that may hold boxes of several images.

        Args:
            images: ``(H, W, 3)`` uint8 RGB at full size.
            predicted: What the detectors predict for each image, in its pixels, or why they predict nothing.
            min_score: Boxes of a lower score are left out, 0..1.
            stages: Adds up the time that it takes.

        Returns:
            The same with a class for each box, or why there is none.
        """
        found = [{} if isinstance(each, str) else _boxes_in(each, min_score) for each in predicted]
        boxes = [
            (image, box)
            for image, each in zip(images, found, strict=True)
            for detections in each.values()
            for box in detections.boxes
        ]
        size = self.predictor.batch or _AT_A_TIME
        results: list[Result] = []
        for start in range(0, len(boxes), size):
            cut = [cut_box(image, box, self.margin) for image, box in boxes[start : start + size]]
            results += self.predictor.predict(cut, stages=stages)
        rest = iter(results)
        classified: list[Predictions | str] = []
        for each, detectors in zip(predicted, found, strict=True):
            ours = {head: list(islice(rest, len(detections.boxes))) for head, detections in detectors.items()}
            errors = [result.error for own in ours.values() for result in own if result.error is not None]
            if isinstance(each, str) or errors:
                classified.append(each if isinstance(each, str) else errors[0])
                continue
            best = {head: replace(detections, then=self._best(ours[head])) for head, detections in detectors.items()}
            classified.append({**each, **best})
        return classified

    def _best(self, results: Sequence[Result]) -> BoxClasses:
        """Returns the best class of each cut-out."""
        (head,) = self._classifiers
        classes = [result[head] for result in results]
        return BoxClasses(
            np.array([each.class_ids[0] for each in classes], dtype=np.int64),
            np.array([each.scores[0] for each in classes], dtype=np.float32),
        )


def _boxes_in(predictions: Predictions, min_score: float) -> dict[str, Detections]:
    """Returns the boxes of each detector."""
    return {head: each.at_least(min_score) for head, each in predictions.items() if isinstance(each, Detections)}
