"""COCO's protocol for boxes as a metric of torchmetrics, so that it adds up over processes."""

import logging
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from mbv2kit.structures import Annotated, Boxes, Detections

# Detections of a class in an image that count at most: for AR1, for AR10, and for everything else.
MAX_DETECTIONS = (1, 10, 100)
_log = logging.getLogger(__name__)

# Columns of a row of ground truth and of a detection.
_IMAGE, _CLASS, _X, _AREA, _CROWD, _SCORE = 0, 1, 2, 6, 7, 6


class CocoProtocol(Metric):
    """Collects detections and annotated objects, and measures precision and recall as pycocotools does.

    torchmetrics' own MeanAveragePrecision runs on the same library, but rounds to 32 bits and takes an area of 0 for
    one that is missing.

    Args:
        classes: Number of classes.
    """

    full_state_update = False
    higher_is_better = True
    detections: list[Tensor]
    objects: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        # One tensor per image: rows of image, class, x, y, width, height, and score or area and crowd.
        self.add_state("detections", default=[], dist_reduce_fx="cat")
        self.add_state("objects", default=[], dist_reduce_fx="cat")

    def update(self, found: Detections, annotated: Annotated) -> None:
        """Adds an image; of each class, the hundred detections with the highest scores count."""
        best = best_of_each_class(found, MAX_DETECTIONS[-1])
        boxes = xywh(found.boxes[best])
        self.detections.append(_rows(annotated.order, found.class_ids[best], boxes, found.scores[best]))
        self.objects.append(
            _rows(annotated.order, annotated.class_ids, annotated.boxes, annotated.areas, annotated.crowd)
        )

    def compute(self) -> dict[str, Tensor]:
        """Returns float64 curves, where -1 marks a class without an object in the range of areas, and counts.

        Returns:
            ``precision``: ``(10, 101, K, 4, 3)``: IoU 0.50..0.95, recall 0..1, class, area (all, small, medium, large),
            detections (1, 10, 100). ``recall``: ``(10, K, 4, 3)``. ``objects``: ``(K,)`` objects that are no crowds.
        """
        detections, objects = (dim_zero_cat(rows).cpu().numpy() for rows in (self.detections, self.objects))
        images = np.unique(np.concatenate([detections[:, _IMAGE], objects[:, _IMAGE]])).tolist()
        # At the log level of Hydra, messages of the library would be printed.
        protocol = COCOeval_faster(
            self._coco(images, objects, _ground_truth),
            self._coco(images, detections, _detection),
            iouType="bbox",
            print_function=_log.debug,
        )
        protocol.params.maxDets = list(MAX_DETECTIONS)
        protocol.evaluate()
        protocol.accumulate()
        counted = objects[objects[:, _CROWD] == 0, _CLASS].astype(np.int64)
        curves = {key: torch.from_numpy(np.asarray(protocol.eval[key])) for key in ("precision", "recall")}
        return {**curves, "objects": torch.from_numpy(np.bincount(counted, minlength=self._classes))}

    def _coco(self, images: list[float], rows: NDArray[np.float64], describe: Any) -> COCO:
        # The protocol uses id 0 for "no match".
        annotations = [
            {"id": number, "image_id": row[_IMAGE], "category_id": int(row[_CLASS]), **describe(row)}
            for number, row in enumerate(rows.tolist(), start=1)
        ]
        return COCO(
            {
                "images": [{"id": image} for image in images],
                "categories": [{"id": class_id, "name": str(class_id)} for class_id in range(self._classes)],
                "annotations": annotations,
            }
        )


def _ground_truth(row: list[float]) -> dict[str, Any]:
    return {"bbox": row[_X:_AREA], "area": row[_AREA], "iscrowd": int(row[_CROWD])}


def _detection(row: list[float]) -> dict[str, Any]:
    return {"bbox": row[_X:_SCORE], "area": row[_X + 2] * row[_X + 3], "score": row[_SCORE]}


def _rows(image: int, class_ids: NDArray[np.int64], *columns: NDArray[Any]) -> Tensor:
    # float64 holds every number of the file and of the network exactly; in float32 an area could cross its limit.
    count = len(class_ids)
    return torch.from_numpy(
        np.column_stack([np.full(count, image, np.float64), class_ids, *columns]).astype(np.float64, copy=False)
    )


def best_of_each_class(found: Detections, most: int) -> NDArray[np.int64]:
    """Returns the indices of the ``most`` highest scores of each class; equal scores keep their order."""
    order = np.argsort(-found.scores, kind="stable")
    class_ids = found.class_ids[order]
    kept = [order[class_ids == class_id][:most] for class_id in np.unique(class_ids)]
    return np.concatenate([np.zeros(0, np.int64), *kept])


def xywh(boxes: Boxes) -> NDArray[np.float64]:
    """Converts ``(N, 4)`` corners to float64 ``x, y, width, height``, as COCO's files have them."""
    converted = boxes.astype(np.float64)
    converted[:, 2:] -= converted[:, :2]
    return converted
