"""Mean IoU against sets of pixels counted one by one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.evaluation.evaluators.mean_iou import MeanIoU
from mbv2kit.structures import IGNORE, Sample, Segmentation

Mask = NDArray[np.uint8]
NAMES = ("sky", "road", "car", "pole", "absent")


def masked(mask: Mask | None, image_id: str = "a.png") -> Sample:
    shape = (2, 2) if mask is None else mask.shape
    return Sample(image=np.zeros((*shape, 3), dtype=np.uint8), image_id=image_id, mask=mask)


def mask(rows: list[list[int]]) -> Mask:
    return np.array(rows, dtype=np.uint8)


def measure(pairs: list[tuple[Mask, Mask]]) -> MeanIoU:
    evaluator = MeanIoU(NAMES)
    for ground_truth, predicted in pairs:
        evaluator.update(Segmentation(predicted), masked(ground_truth))
    return evaluator


def count_by_pixel(pairs: list[tuple[Mask, Mask]]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The reference: a set of pixels per class and side, no matrix, no vectors."""
    true: list[set[tuple[int, int, int]]] = [set() for _ in NAMES]
    found: list[set[tuple[int, int, int]]] = [set() for _ in NAMES]
    for image, (ground_truth, predicted) in enumerate(pairs):
        for y in range(ground_truth.shape[0]):
            for x in range(ground_truth.shape[1]):
                if ground_truth[y, x] != IGNORE:
                    true[ground_truth[y, x]].add((image, y, x))
                    found[predicted[y, x]].add((image, y, x))
    total = sum(map(len, true))
    per_class = {
        name: (len(t & s) / len(t | s) if t | s else math.nan, len(t) / total if total else math.nan)
        for name, t, s in zip(NAMES, true, found, strict=True)
    }
    known = [iou for iou, _ in per_class.values() if not math.isnan(iou)]
    right = sum(len(t & s) for t, s in zip(true, found, strict=True))
    metrics = {
        "mIoU": sum(known) / len(known) if sum(map(bool, true)) > 1 else math.nan,
        "pixel_accuracy": right / total if total else math.nan,
    }
    return metrics, per_class


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_equals_a_count_by_pixel(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    present = rng.permutation(4)[: rng.integers(1, 5)]
    pairs = []
    for _ in range(images):
        shape = tuple(rng.integers(1, 9, 2))
        ground_truth = rng.choice([*present, IGNORE], shape).astype(np.uint8)
        pairs.append((ground_truth, rng.choice(present, shape).astype(np.uint8)))
    scores = measure(pairs).compute()
    metrics, per_class = count_by_pixel(pairs)
    assert scores.metrics == pytest.approx(metrics, abs=1e-12, nan_ok=True)
    assert list(scores.per_class) == list(NAMES)
    for name, (iou, share) in per_class.items():
        assert scores.per_class[name]["IoU"] == pytest.approx(iou, abs=1e-12, nan_ok=True)
        assert scores.per_class[name]["share"] == pytest.approx(share, abs=1e-12, nan_ok=True)


def test_known_image() -> None:
    scores = measure([(mask([[0, 0, 1], [1, 1, 255]]), mask([[0, 1, 1], [1, 2, 4]]))]).compute()
    assert scores.metrics["pixel_accuracy"] == pytest.approx(3 / 5)
    assert scores.per_class["sky"] == pytest.approx({"IoU": 1 / 2, "share": 2 / 5})
    assert scores.per_class["road"] == pytest.approx({"IoU": 2 / 4, "share": 3 / 5})
    # Predicted, never true: counts as 0. Predicted only where the ground truth is unknown, or nowhere: does not count.
    assert scores.per_class["car"] == {"IoU": 0.0, "share": 0.0}
    assert math.isnan(scores.per_class["pole"]["IoU"])
    assert math.isnan(scores.per_class["absent"]["IoU"])
    assert scores.metrics["mIoU"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)


def test_pixels_are_added_up_over_images_of_any_size() -> None:
    """A large image weighs more than a small one; the mean of the two images would be 0.5."""
    right, wrong = np.zeros((30, 10), dtype=np.uint8), np.zeros((10, 10), dtype=np.uint8)
    scores = measure([(right, right), (wrong, np.ones_like(wrong))]).compute()
    assert scores.per_class["sky"]["IoU"] == pytest.approx(0.75)
    assert scores.metrics["pixel_accuracy"] == pytest.approx(0.75)


def test_many_classes_do_not_wrap_around() -> None:
    """With 150 classes a pair of ids is larger than a byte, in which the masks come."""
    evaluator = MeanIoU([f"class {index}" for index in range(150)])
    everything = np.arange(150, dtype=np.uint8).reshape(10, 15)
    evaluator.update(Segmentation(everything), masked(everything))
    scores = evaluator.compute()
    assert scores.metrics == {"mIoU": 1.0, "pixel_accuracy": 1.0}
    assert all(row["share"] == pytest.approx(1 / 150) for row in scores.per_class.values())


@pytest.mark.parametrize("pairs", [[], [(mask([[255, 255]]), mask([[0, 1]]))]], ids=["no image", "all unknown"])
def test_without_pixels_metrics_are_nan(pairs: list[tuple[Mask, Mask]]) -> None:
    evaluator = measure(pairs)
    assert evaluator.images == len(pairs)
    assert all(math.isnan(value) for value in evaluator.compute().metrics.values())


def test_bad_masks_are_reported_with_the_image() -> None:
    evaluator = MeanIoU(NAMES)
    good = mask([[0, 1]])
    with pytest.raises(UserError, match=r"street/7\.png.*annotation holds class 11, but the data set has 5 classes"):
        evaluator.update(Segmentation(good), masked(mask([[0, 11]]), "street/7.png"))
    with pytest.raises(UserError, match=r"street/7\.png.*predicts class 20"):
        evaluator.update(Segmentation(mask([[0, 20]])), masked(good, "street/7.png"))
    with pytest.raises(ValueError, match=r"street/7\.png: a prediction of \(2, 1\) needs such a mask, got \(1, 2\)"):
        evaluator.update(Segmentation(good.T.copy()), masked(good, "street/7.png"))
    with pytest.raises(ValueError, match=r"street/7\.png: .* got none"):
        evaluator.update(Segmentation(good), masked(None, "street/7.png"))
    assert evaluator.images == 0


def test_classes_that_are_never_true_are_named() -> None:
    half = mask([[0, 1], [1, 0]])
    assert measure([(half, half)]).compute().notes == (
        "3 of 5 classes (car, pole, absent) have no pixel in the ground truth, so mIoU says nothing about them.",
    )
    everything = mask([[0, 1, 2, 3, 4]])
    assert measure([(everything, everything)]).compute().notes == ()


def test_ground_truth_of_one_class_has_no_mean() -> None:
    """As if the other class were painted as 255: always predicting the only class would score 1."""
    evaluator = MeanIoU(["background", "crack"])
    evaluator.update(Segmentation(mask([[0, 0, 0]])), masked(mask([[0, 255, 0]])))
    scores = evaluator.compute()
    assert math.isnan(scores.metrics["mIoU"])
    assert scores.metrics["pixel_accuracy"] == 1
    assert scores.notes[-1] == "The ground truth holds class 'background' only, so mIoU cannot be measured."


def test_without_ground_truth_a_note_says_so() -> None:
    assert MeanIoU(NAMES).compute().notes == (
        "The ground truth holds no pixel of any class, so mIoU cannot be measured.",
    )
