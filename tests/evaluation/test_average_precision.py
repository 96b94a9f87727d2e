"""Average precision against pycocotools itself, and the cases that break evaluators: no predictions, no objects."""

import contextlib
import io
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mbv2kit.errors import UserError
from mbv2kit.evaluation.evaluators.average_precision import AveragePrecision
from mbv2kit.structures import Detections, Sample

Image = tuple[Detections, Sample]
NAMES = ("cat", "dog", "bird", "fish", "never")
# In the order of pycocotools.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def sample(boxes: Any, labels: Any, crowd: Any = None, image_id: str = "a.jpg") -> Sample:
    return Sample(
        image=np.zeros((8, 8, 3), dtype=np.uint8),
        image_id=image_id,
        boxes=np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.asarray(labels, dtype=np.int64).reshape(-1),
        crowd=None if crowd is None else np.asarray(crowd, dtype=np.bool_),
    )


def detections(boxes: Any, class_ids: Any, scores: Any) -> Detections:
    return Detections(
        np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
        np.asarray(class_ids, dtype=np.int64).reshape(-1),
        np.asarray(scores, dtype=np.float32).reshape(-1),
    )


NOTHING_FOUND = detections([], [], [])
NOTHING_THERE = sample([], [])


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    corner = rng.uniform(0, 200, (count, 2))
    # Sides around 32 and 96 pixels, so that all three ranges of area are filled.
    side = np.exp(rng.uniform(np.log(4), np.log(300), (count, 2)))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def random_image(rng: np.random.Generator) -> Image:
    """An image with up to six objects, crowds among them, some of which are found, more or less well."""
    count = int(rng.integers(0, 7))
    ground_truth = sample(random_boxes(rng, count), rng.integers(0, 4, count), rng.random(count) < 0.2)
    assert ground_truth.boxes is not None
    assert ground_truth.labels is not None
    found = rng.integers(0, count, int(rng.integers(0, 12))) if count else np.zeros(0, dtype=np.int64)
    near = ground_truth.boxes[found] + rng.normal(0, 4, (len(found), 4)).astype(np.float32)
    near_labels = np.where(rng.random(len(found)) < 0.8, ground_truth.labels[found], rng.integers(0, 4, len(found)))
    stray = int(rng.integers(0, 5))
    boxes = np.concatenate([near, random_boxes(rng, stray)])
    class_ids = np.concatenate([near_labels, rng.integers(0, 4, stray)])
    # One decimal: equal scores must fall into the same order in both implementations.
    scores = np.sort(rng.random(len(boxes)).round(1))[::-1]
    return detections(boxes, class_ids, scores), ground_truth


def measure(images: list[Image], names: tuple[str, ...] = NAMES) -> AveragePrecision:
    evaluator = AveragePrecision(names)
    for found, ground_truth in images:
        evaluator.update(found, ground_truth)
    return evaluator


def xywh(box: NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


def measure_with_pycocotools(images: list[Image]) -> COCOeval:
    """The reference: ids from 1, as in COCO's files, and results through ``loadRes``, as in its submissions."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, (found, ground_truth) in enumerate(images, start=1):
        assert ground_truth.boxes is not None
        assert ground_truth.labels is not None
        assert ground_truth.crowd is not None
        for box, label, crowd in zip(ground_truth.boxes, ground_truth.labels, ground_truth.crowd, strict=True):
            side = xywh(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": side,
                    "area": side[2] * side[3],
                    "iscrowd": int(crowd),
                }
            )
        for box, class_id, score in zip(found.boxes, found.class_ids, found.scores, strict=True):
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(class_id) + 1,
                    "bbox": xywh(box),
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth_set = COCO()
        ground_truth_set.dataset = {
            "info": {},
            "images": [{"id": image_id} for image_id in range(1, len(images) + 1)],
            "categories": [{"id": class_id, "name": name} for class_id, name in enumerate(NAMES, start=1)],
            "annotations": annotations,
        }
        ground_truth_set.createIndex()
        reference = COCOeval(ground_truth_set, ground_truth_set.loadRes(results), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    return reference


def nan_for_minus_one(value: float) -> float:
    return math.nan if value == -1 else value


@pytest.mark.parametrize("seed", range(30))
def test_equals_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(int(rng.integers(2, 25)))]
    scores = measure(images).compute()
    reference = measure_with_pycocotools(images)

    expected = {name: nan_for_minus_one(value) for name, value in zip(METRICS, reference.stats, strict=True)}
    assert scores.metrics == pytest.approx(expected, abs=1e-9, nan_ok=True)
    for class_id, name in enumerate(NAMES):
        precision = reference.eval["precision"][:, :, class_id, 0, -1]
        assert scores.per_class[name]["AP"] == pytest.approx(nan_for_minus_one(precision.mean()), abs=1e-9, nan_ok=True)
        assert scores.per_class[name]["AP50"] == pytest.approx(
            nan_for_minus_one(precision[0].mean()), abs=1e-9, nan_ok=True
        )


def test_random_images_cover_what_they_should() -> None:
    """Guards the comparison above: every range of area is measured and the figures are neither 0 nor 1."""
    rng = np.random.default_rng(0)
    metrics = measure([random_image(rng) for _ in range(100)]).compute().metrics
    assert all(0.02 < value < 0.98 for value in metrics.values()), metrics


def test_perfect_detections_score_one() -> None:
    boxes = [[10, 10, 20, 20], [10, 10, 70, 70], [0, 0, 200, 200]]
    evaluator = measure([(detections(boxes, [0, 1, 2], [0.9, 0.8, 0.7]), sample(boxes, [0, 1, 2]))])
    scores = evaluator.compute()
    assert scores.metrics == pytest.approx(dict.fromkeys(METRICS, 1.0))
    assert scores.per_class["cat"] == {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0), "objects": 1}


def test_overlap_decides_at_which_thresholds_a_box_is_found() -> None:
    """A box of IoU 0.72 is found at 0.50, 0.55 … 0.70: five thresholds of ten."""
    found = detections([[0, 0, 72, 100]], [0], [0.9])
    metrics = measure([(found, sample([[0, 0, 100, 100]], [0]))]).compute().metrics
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP75"] == 0.0
    assert metrics["AR100"] == pytest.approx(0.5)


def test_false_alarm_above_the_right_box_halves_precision() -> None:
    found = detections([[500, 500, 600, 600], [0, 0, 100, 100]], [0, 0], [0.9, 0.8])
    assert measure([(found, sample([[0, 0, 100, 100]], [0]))]).compute().metrics["AP"] == pytest.approx(0.5)


def test_detections_inside_a_crowd_are_neither_right_nor_wrong() -> None:
    boxes = [[0, 0, 100, 100], [200, 200, 400, 400]]
    found = detections([[210, 210, 260, 260], [0, 0, 100, 100]], [0, 0], [0.9, 0.8])
    scores = measure([(found, sample(boxes, [0, 0], [False, True]))]).compute()
    assert scores.metrics["AP"] == pytest.approx(1.0)
    assert scores.per_class["cat"]["objects"] == 1


def test_only_the_hundred_best_detections_of_a_class_in_an_image_count() -> None:
    ground_truth = sample([[0, 0, 100, 100]], [0])
    strays = [[500, 500, 600, 600]] * 100
    at_100 = detections([*strays[:99], [0, 0, 100, 100]], [0] * 100, np.linspace(1, 0.5, 100))
    at_101 = detections([*strays, [0, 0, 100, 100]], [0] * 101, np.linspace(1, 0.5, 101))
    assert measure([(at_100, ground_truth)]).compute().metrics["AP"] == pytest.approx(0.01)
    assert measure([(at_101, ground_truth)]).compute().metrics["AP"] == 0.0


def test_detections_of_one_class_do_not_displace_those_of_another() -> None:
    """180 objects of three classes in one image, all found exactly."""
    boxes = [[20 * column, 20 * row, 20 * column + 15, 20 * row + 15] for row in range(12) for column in range(15)]
    labels = [index % 3 for index in range(180)]
    found = detections(boxes, labels, np.linspace(1, 0.5, 180))
    assert measure([(found, sample(boxes, labels))]).compute().metrics["AP"] == pytest.approx(1.0)


def test_the_hundred_best_are_the_highest_scores_whatever_the_order() -> None:
    boxes = [*([[500, 500, 600, 600]] * 100), [0, 0, 100, 100]]
    found = detections(boxes, [0] * 101, [*[0.1] * 100, 0.9])
    assert measure([(found, sample([[0, 0, 100, 100]], [0]))]).compute().metrics["AP"] == pytest.approx(1.0)


def test_no_detection_at_all_scores_zero() -> None:
    metrics = (
        measure([(NOTHING_FOUND, sample([[0, 0, 10, 10]], [0])), (NOTHING_FOUND, NOTHING_THERE)]).compute().metrics
    )
    assert metrics["AP"] == metrics["AP50"] == metrics["APs"] == metrics["AR100"] == 0.0
    assert math.isnan(metrics["APm"])


@pytest.mark.parametrize(
    "images",
    [
        [],
        [(NOTHING_FOUND, NOTHING_THERE)],
        [(detections([[0, 0, 10, 10]], [0], [0.5]), NOTHING_THERE)],
        [(detections([[0, 0, 10, 10]], [0], [0.5]), sample([[0, 0, 10, 10]], [0], [True]))],
    ],
    ids=["no image", "nothing at all", "no ground truth", "only a crowd"],
)
def test_without_objects_metrics_are_nan(images: list[Image]) -> None:
    evaluator = measure(images)
    scores = evaluator.compute()
    assert evaluator.images == len(images)
    assert all(math.isnan(value) for value in scores.metrics.values())
    assert all(math.isnan(row["AP"]) and row["objects"] == 0 for row in scores.per_class.values())


def test_class_without_an_object_is_left_out_of_the_mean() -> None:
    found = detections([[0, 0, 50, 50], [60, 60, 90, 90]], [0, 4], [0.9, 0.8])
    scores = measure([(found, sample([[0, 0, 50, 50]], [0]))]).compute()
    assert scores.metrics["AP"] == pytest.approx(1.0)
    assert math.isnan(scores.per_class["never"]["AP"])


@pytest.mark.parametrize(
    ("sides", "sizes"),
    [
        ([50], "no small and no large object, so APs and ARs, APl and ARl cannot"),
        ([10, 50], "no large object, so APl and ARl cannot"),
        ([10, 50, 100], None),
    ],
)
def test_sizes_that_never_occur_are_told(sides: list[int], sizes: str | None) -> None:
    boxes = [[0, 0, side, side] for side in sides]
    scores = measure([(NOTHING_FOUND, sample(boxes, [0] * len(boxes)))]).compute()
    told = [note for note in scores.notes if "cannot be measured" in note]
    assert len(told) == (sizes is not None)
    assert sizes is None or told[0].startswith(f"The ground truth holds {sizes}")
    named = {name for name in scores.metrics if any(name in note for note in told)} - {"AP"}
    assert named == {name for name, value in scores.metrics.items() if math.isnan(value)}


def test_images_added_after_compute_count() -> None:
    box = [[0, 0, 50, 50]]
    evaluator = measure([(detections(box, [0], [0.9]), sample(box, [0]))])
    assert evaluator.compute().metrics["AP50"] == pytest.approx(1.0)
    evaluator.update(NOTHING_FOUND, sample(box, [1]))
    assert evaluator.compute().metrics["AP50"] == pytest.approx(0.5)


def test_inputs_are_not_changed() -> None:
    found, ground_truth = detections([[1, 2, 30, 40]], [0], [0.9]), sample([[1, 2, 30, 40]], [0])
    measure([(found, ground_truth)]).compute()
    assert ground_truth.boxes is not None
    assert found.boxes.tolist() == ground_truth.boxes.tolist() == [[1, 2, 30, 40]]


def test_unknown_classes_are_reported_with_the_image() -> None:
    evaluator = AveragePrecision(NAMES)
    with pytest.raises(UserError, match=r"street/7\.jpg.*annotation holds class 5.*5 classes"):
        evaluator.update(NOTHING_FOUND, sample([[0, 0, 9, 9]], [5], image_id="street/7.jpg"))
    with pytest.raises(UserError, match=r"street/7\.jpg.*predicts class 9"):
        evaluator.update(detections([[0, 0, 9, 9]], [9], [0.5]), sample([], [], image_id="street/7.jpg"))
    assert evaluator.images == 0


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        measure([random_image(np.random.default_rng(1))]).compute()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_curves_at_iou_50_with_a_hundred_detections_are_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = []

    def draw(precision: NDArray[np.float64], names: tuple[str, ...], path: Path) -> Path:
        drawn.append(precision)
        assert names == NAMES
        return path

    monkeypatch.setattr("mbv2kit.evaluation.plots.precision_recall_curves", draw)
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(20)]
    assert measure(images).save_plots(tmp_path) == [tmp_path / "precision_recall.png"]
    expected = measure_with_pycocotools(images).eval["precision"][0, :, :, 0, 2].T
    np.testing.assert_allclose(drawn[0], np.where(expected < 0, np.nan, expected), atol=1e-12)
    AveragePrecision(NAMES).save_plots(tmp_path)
    assert drawn[1].shape == (5, 101)
    assert np.isnan(drawn[1]).all()


def test_processes_that_take_turns_number_the_images_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "get_rank", lambda: 2)
    evaluator = measure([(detections([[0, 0, 2, 2]], [0], [0.5]), sample([[0, 0, 2, 2]], [0]))] * 3)
    assert [rows[:, 0].tolist() for rows in evaluator._protocol.objects] == [[2], [5], [8]]
    assert [rows[:, 0].tolist() for rows in evaluator._protocol.detections] == [[2], [5], [8]]


def test_ids_below_zero_and_samples_without_boxes_are_refused() -> None:
    box = [[0, 0, 2, 2], [0, 0, 3, 3]]
    with pytest.raises(UserError, match=r"^a\.jpg: its annotation holds class -1, but the data set has 5 classes"):
        measure([(NOTHING_FOUND, sample(box, [4, -1]))])
    with pytest.raises(UserError, match=r"^a\.jpg: the model predicts class -2, but"):
        measure([(detections(box, [-2, 4], [0.5, 0.4]), NOTHING_THERE)])
    with pytest.raises(ValueError, match=r"a\.jpg: a sample without boxes"):
        measure([(NOTHING_FOUND, Sample(image=NOTHING_THERE.image, image_id="a.jpg"))])
