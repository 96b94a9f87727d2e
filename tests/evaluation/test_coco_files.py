"""All twelve metrics of a COCO file against pycocotools on the same file."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mbv2kit.data.align import align_classes
from mbv2kit.data.sources import create_source
from mbv2kit.evaluation.evaluators.average_precision import AveragePrecision
from mbv2kit.structures import Detections

HEIGHT, WIDTH = 200, 300
CATEGORIES = (90, 3, 17)


def random_file(rng: np.random.Generator) -> dict[str, Any]:
    """Crowds, areas that are not the boxes', boxes that reach beyond the image or have no area, ids out of order."""
    images = [
        {"id": int(number), "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
        for number in rng.permutation(40)[: rng.integers(2, 8)]
    ]
    annotations: list[dict[str, Any]] = []
    for image in images:
        for _ in range(int(rng.integers(0, 12))):
            x, y = rng.uniform(-20, 250), rng.uniform(-20, 150)
            width, height = np.exp(rng.uniform(np.log(4), np.log(250), 2)) * rng.choice([0, 1], 2, p=[0.05, 0.95])
            area = rng.choice([width * height * rng.uniform(0.2, 1), 32**2, 96**2, 0], p=[0.8, 0.08, 0.07, 0.05])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice(CATEGORIES[:2])),
                    "bbox": [round(float(value), 2) for value in (x, y, width, height)],
                    "area": float(area),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    categories = [{"id": number, "name": f"category {number}"} for number in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}


def random_detections(rng: np.random.Generator, boxes: list[Any], labels: list[int]) -> Detections:
    """Near and far boxes, sometimes far more than a hundred, with many equal scores."""
    near = np.array([boxes[i] for i in rng.integers(0, len(boxes), 20)] if boxes else np.zeros((0, 4)), np.float32)
    near_labels = np.array([labels[i] for i in rng.integers(0, len(labels), len(near))], np.int64)
    strays = int(rng.choice([3, 250]))
    corner = rng.uniform(0, 200, (strays, 2))
    far = np.concatenate([corner, corner + rng.uniform(1, 100, (strays, 2))], axis=1)
    near[:, 2:] += near[:, :2]
    found = np.concatenate([near + rng.normal(0, 2, near.shape), far]).astype(np.float32)
    class_ids = np.concatenate([near_labels, rng.integers(0, 3, strays)])
    scores = rng.random(len(found)).round(int(rng.choice([1, 6]))).astype(np.float32)
    return Detections(found, class_ids, scores)


def pycocotools_stats(file: Path, results: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(file)
        protocol = COCOeval(theirs, theirs.loadRes(results), "bbox")
        protocol.evaluate()
        protocol.accumulate()
        protocol.summarize()
    return [math.nan if value == -1 else float(value) for value in protocol.stats]


@pytest.mark.parametrize("seed", range(50))
def test_all_twelve_metrics_equal_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    content = random_file(rng)
    file = tmp_path / "annotations/instances_val.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    (tmp_path / "val").mkdir()
    for image in content["images"]:
        PillowImage.new("L", (WIDTH, HEIGHT)).save(tmp_path / "val" / image["file_name"])
    source = create_source("coco", task="detection", root=tmp_path, split="val")
    names = [f"category {number}" for number in CATEGORIES]
    # A model may list the classes in another order.
    source = align_classes(source, names)
    evaluator, results = AveragePrecision(names), []
    for index, image in enumerate(content["images"]):
        sample = source[index]
        assert sample.image_id == image["file_name"]
        records = [record for record in content["annotations"] if record["image_id"] == image["id"]]
        labels = [CATEGORIES.index(record["category_id"]) for record in records]
        found = random_detections(rng, [record["bbox"] for record in records], labels)
        evaluator.update(found, sample)
        for box, class_id, score in zip(found.boxes.tolist(), found.class_ids, found.scores, strict=True):
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": CATEGORIES[class_id],
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "score": float(score),
                }
            )
    scores = evaluator.compute()
    assert list(scores.metrics.values()) == pytest.approx(pycocotools_stats(file, results), abs=1e-9, nan_ok=True)
    if content["annotations"]:
        assert "category 17" in scores.notes[0]
