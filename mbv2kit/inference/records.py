"""Records: predictions as plain values, the keys of a line of ``predictions.jsonl``."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.draw import BEST
from mbv2kit.imaging.resizing import count_values
from mbv2kit.structures import Classification, Detections, Prediction

# A millionth of a score and a hundredth of a pixel: finer than any model predicts, short enough to read.
_SCORE_DIGITS = 6
_PIXEL_DIGITS = 2

Record = dict[str, Any]


def describe(
    prediction: Prediction, class_names: Sequence[str], min_score: float, then_class_names: Sequence[str] = ()
) -> Record:
    """Returns a prediction as plain values: the five best ``classes``, the ``boxes``, or the ``fractions`` of classes.

    Args:
        prediction: The prediction, in pixels of the image.
        class_names: Names by class id.
        min_score: Boxes with a lower score are left out.
        then_class_names: Names by class id of a second model that classified the boxes.
    """
    if isinstance(prediction, Classification):
        best = zip(prediction.class_ids[:BEST].tolist(), prediction.scores[:BEST].tolist(), strict=True)
        return {"classes": [_label(class_id, score, class_names) for class_id, score in best]}
    if isinstance(prediction, Detections):
        kept = prediction.at_least(min_score)
        found = zip(kept.class_ids.tolist(), kept.scores.tolist(), kept.boxes.tolist(), strict=True)
        boxes = [
            _label(class_id, score, class_names) | {"box": [round(value, _PIXEL_DIGITS) for value in box]}
            for class_id, score, box in found
        ]
        if kept.then is not None:
            best = zip(kept.then.class_ids.tolist(), kept.then.scores.tolist(), strict=True)
            boxes = [
                box | {"then": _label(class_id, score, then_class_names)}
                for box, (class_id, score) in zip(boxes, best, strict=True)
            ]
        return {"boxes": boxes}
    by_name = shares(prediction.mask, class_names)
    return {"fractions": {name: round(share, _SCORE_DIGITS) for name, share in by_name.items()}}


def _label(class_id: int, score: float, class_names: Sequence[str]) -> Record:
    return {"class_id": class_id, "label": class_names[class_id], "score": round(score, _SCORE_DIGITS)}


def shares(mask: NDArray[np.uint8], class_names: Sequence[str]) -> dict[str, float]:
    """Returns the share of the pixels of a mask that each class has, 0..1, for the classes that are there."""
    counts = count_values(mask)
    pixels: Counter[str] = Counter()
    for class_id in np.flatnonzero(counts).tolist():
        # Several classes may share a name.
        pixels[class_names[class_id]] += counts[class_id].item()
    return {name: count / mask.size for name, count in pixels.items()}
