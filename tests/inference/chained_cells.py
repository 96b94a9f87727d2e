"""Measures what a second model changes in the classes of a detector's boxes, on the blood cells of BCCD.

python -m tests.inference.chained_cells BCCD DETECTOR CLASSIFIER
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import mbv2kit
from mbv2kit.data.sources import create_source
from mbv2kit.evaluation import create_evaluator
from mbv2kit.structures import Boxes, Detections

MARGIN = 0.1
_SAME_OBJECT = 0.5


def main(arguments: Sequence[str]) -> None:
    """Prints AP and AP50 with the classes of each, and how often each is right about a box that is an object."""
    root, detector, classifier = arguments
    source = create_source("voc", task="detection", split="val", root=root)
    chained = mbv2kit.load(detector).then(mbv2kit.load(classifier), margin=MARGIN)
    ids = np.array([source.class_names.index(name) for name in chained._second.class_names])  # type: ignore[union-attr]
    own, second = (create_evaluator("detection", source.class_names) for _ in range(2))
    right = np.zeros(3, dtype=np.int64)
    for index in range(len(source)):
        sample = source[index]
        assert sample.boxes is not None
        assert sample.labels is not None
        result = chained(sample.image, min_score=0.05)
        found = Detections(result.boxes, result.class_ids, result.scores)
        order = np.argsort(-found.scores * result.then_scores, kind="stable")
        classified = Detections(
            found.boxes[order], ids[result.then_class_ids][order], (found.scores * result.then_scores)[order]
        )
        own.update(found, sample)
        second.update(classified, replace(sample))
        overlaps = _overlaps(found.boxes, sample.boxes)
        if overlaps.size:
            best = overlaps.argmax(axis=1)
            counted = (overlaps.max(axis=1) >= _SAME_OBJECT) & (found.scores >= 0.3)
            truth = sample.labels[best][counted]
            right += [
                len(truth),
                (found.class_ids[counted] == truth).sum(),
                (ids[result.then_class_ids][counted] == truth).sum(),
            ]
    for name, evaluator in (("the detector's own classes", own), ("classes of the second model", second)):
        metrics = evaluator.compute().metrics
        print(f"{name}: AP {metrics['AP']:.3f}, AP50 {metrics['AP50']:.3f}")
    print(f"{right[0]} boxes on objects: {right[1]} right by the detector, {right[2]} by the second model")


def _overlaps(boxes: Boxes, others: Boxes) -> NDArray[np.float32]:
    """Returns the IoU of each of (N, 4) and (M, 4) boxes."""
    corners = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    inside = (corners[1] - corners[0]).clip(min=0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, others)]
    overlaps: NDArray[np.float32] = inside / (areas[0][:, None] + areas[1][None] - inside)
    return overlaps


if __name__ == "__main__":
    main(sys.argv[1:])
