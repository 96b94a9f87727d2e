"""Detection: COCO's average precision, equal to that of pycocotools."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from mbv2kit.evaluation.classes import check_ground_truth, check_prediction, mean_of_known, unique_names
from mbv2kit.evaluation.evaluators.base import EVALUATORS, Evaluator
from mbv2kit.evaluation.scores import Scores
from mbv2kit.structures import Boxes, Detections, Sample

MAX_DETECTIONS = 100
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Objects:
    """Ground truth or predictions of one image; arrays take far less memory than COCO's dictionary per box.

    Attributes:
        boxes: ``(N, 4)`` xyxy.
        class_ids: ``(N,)``.
        extra: ``(N,)``, COCO's ``iscrowd`` of true boxes, ``score`` of detections.
    """

    boxes: Boxes
    class_ids: NDArray[np.int64]
    extra: NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Curves:
    """The measurements of COCO's protocol; NaN if a class has no true box in the range of areas.

    Attributes:
        precision: ``(10, 101, K, 4)``: IoU 0.50..0.95, recall 0..1, class, area (all, small, medium, large).
        recall: ``(10, K, 4)``: highest recall.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


@EVALUATORS.register("average_precision")
class AveragePrecision(Evaluator):
    """Collects detections and true boxes, and measures them by COCO's protocol.

    The hundred best detections of an image count, whatever their class; the others are dropped. Detections in a crowd
    box count as neither right nor wrong. The size of a true box (small, medium, large) is its area, not that of a mask.
    A class without a true box has no AP (NaN) and is left out of the means.

    Args:
        class_names: The data set's classes, in the order of their ids.
    """

    task = "detection"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = unique_names(class_names)
        self.images = 0
        self._ground_truths: list[_Objects] = []
        self._detections: list[_Objects] = []
        self._measured: _Curves | None = None

    def update(self, prediction: Detections, ground_truth: Sample) -> None:
        """Adds one image; prediction and ground truth may have no boxes.

        Args:
            prediction: Boxes in the pixels of the image.
            ground_truth: The sample with its ``boxes``, ``labels`` and ``crowd``.

        Raises:
            UserError: A class id is not in the data set.
        """
        if ground_truth.boxes is None or ground_truth.labels is None or ground_truth.crowd is None:
            raise ValueError(f"{ground_truth.image_id}: a sample without boxes cannot be evaluated")
        check_ground_truth(ground_truth.labels, len(self.class_names), ground_truth.image_id)
        check_prediction(prediction.class_ids, len(self.class_names), ground_truth.image_id)
        best = np.argsort(-prediction.scores, kind="stable")[:MAX_DETECTIONS]
        self.images += 1
        self._measured = None
        self._ground_truths.append(
            _Objects(ground_truth.boxes, ground_truth.labels, ground_truth.crowd.astype(np.int64))
        )
        self._detections.append(_Objects(prediction.boxes[best], prediction.class_ids[best], prediction.scores[best]))

    def compute(self) -> Scores:
        """Returns ``AP AP50 AP75 APs APm APl AR100``; per class ``AP``, ``AP50`` and the number of true ``objects``.

        ``AP`` is the mean over IoU 0.50..0.95 in steps of 0.05; ``s``, ``m`` and ``l`` are boxes of up to 32², up to
        96² and more pixels; crowds do not count as objects.
        """
        curves = self._measure()
        precision = curves.precision
        objects = np.zeros(len(self.class_names), dtype=np.int64)
        for ground_truth in self._ground_truths:
            objects += np.bincount(ground_truth.class_ids[ground_truth.extra == 0], minlength=len(self.class_names))
        return Scores(
            metrics={
                "AP": mean_of_known(precision[:, :, :, 0]),
                "AP50": mean_of_known(precision[0, :, :, 0]),
                "AP75": mean_of_known(precision[5, :, :, 0]),
                "APs": mean_of_known(precision[:, :, :, 1]),
                "APm": mean_of_known(precision[:, :, :, 2]),
                "APl": mean_of_known(precision[:, :, :, 3]),
                "AR100": mean_of_known(curves.recall[:, :, 0]),
            },
            per_class={
                name: {
                    "AP": mean_of_known(precision[:, :, class_id, 0]),
                    "AP50": mean_of_known(precision[0, :, class_id, 0]),
                    "objects": int(objects[class_id]),
                }
                for class_id, name in enumerate(self.class_names)
            },
        )

    def save_plots(self, directory: Path) -> list[Path]:
        """Draws the precision-recall curves at IoU 0.50 into ``directory`` and returns the files."""
        from mbv2kit.evaluation import plots

        precision = self._measure().precision[0, :, :, 0].T
        return [plots.precision_recall_curves(precision, self.class_names, directory / "precision_recall.png")]

    def _measure(self) -> _Curves:
        if self._measured is None:
            # At the log level of Hydra, messages of the library would be printed.
            protocol = COCOeval_faster(
                self._coco(self._ground_truths, "iscrowd"),
                self._coco(self._detections, "score"),
                iouType="bbox",
                print_function=_LOG.debug,
            )
            protocol.evaluate()
            protocol.accumulate()
            precision, recall = (np.asarray(protocol.eval[key])[..., -1] for key in ("precision", "recall"))
            self._measured = _Curves(
                precision=np.where(precision < 0, np.nan, precision), recall=np.where(recall < 0, np.nan, recall)
            )
        return self._measured

    def _coco(self, images: Sequence[_Objects], extra_key: str) -> COCO:
        annotations: list[dict[str, Any]] = []
        for image_id, objects in enumerate(images):
            # float64, as from a JSON file: in float32 an area could cross the border of its range.
            boxes = objects.boxes.astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            for box, class_id, extra in zip(
                boxes.tolist(), objects.class_ids.tolist(), objects.extra.tolist(), strict=True
            ):
                annotations.append(
                    {
                        # The protocol uses id 0 for "no match".
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": class_id,
                        "bbox": box,
                        "area": box[2] * box[3],
                        extra_key: extra,
                    }
                )
        return COCO(
            {
                "images": [{"id": image_id} for image_id in range(len(images))],
                "categories": [{"id": class_id, "name": name} for class_id, name in enumerate(self.class_names)],
                "annotations": annotations,
            }
        )
