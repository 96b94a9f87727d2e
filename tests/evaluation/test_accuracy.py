"""Top-1, top-5 and the per-class figures of classification."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.errors import UserError
from mbv2kit.evaluation.evaluators.accuracy import Accuracy
from mbv2kit.structures import Classification, Sample

SEVEN = tuple("abcdefg")


def labeled(label: int | None, image_id: str = "a.jpg") -> Sample:
    return Sample(image=np.zeros((4, 4, 3), dtype=np.uint8), image_id=image_id, label=label)


def ranking(*class_ids: int) -> Classification:
    return Classification(np.array(class_ids, dtype=np.int64), np.linspace(0.9, 0.1, len(class_ids)).astype(np.float32))


def test_first_and_first_five_count() -> None:
    evaluator = Accuracy(SEVEN)
    evaluator.update(ranking(0, 1, 2, 3, 4, 5, 6), labeled(0))
    evaluator.update(ranking(0, 1, 2, 3, 4, 5, 6), labeled(4))
    evaluator.update(ranking(0, 1, 2, 3, 4, 5, 6), labeled(5))
    evaluator.update(ranking(5, 1, 2, 3, 4, 0, 6), labeled(5))
    scores = evaluator.compute()
    assert evaluator.images == 4
    assert scores.metrics == {"top1": 0.5, "top5": 0.75}
    assert scores.per_class["a"] == {"top1": 1.0, "images": 1}
    assert scores.per_class["e"] == {"top1": 0.0, "images": 1}
    assert scores.per_class["f"] == {"top1": 0.5, "images": 2}
    assert math.isnan(scores.per_class["b"]["top1"])
    assert scores.per_class["b"]["images"] == 0


@given(
    st.integers(1, 9).flatmap(
        lambda classes: st.tuples(
            st.just(classes),
            st.lists(st.tuples(st.integers(0, classes - 1), st.permutations(range(classes))), min_size=1, max_size=20),
        )
    )
)
def test_equals_a_count_by_hand(case: tuple[int, list[tuple[int, list[int]]]]) -> None:
    classes, images = case
    evaluator = Accuracy([f"class {index}" for index in range(classes)])
    for label, order in images:
        evaluator.update(ranking(*order), labeled(label))
    scores = evaluator.compute()
    assert scores.metrics["top1"] == pytest.approx(sum(order[0] == label for label, order in images) / len(images))
    assert scores.metrics["top5"] == pytest.approx(sum(order.index(label) < 5 for label, order in images) / len(images))
    assert scores.metrics["top5"] == 1.0 or classes > 5
    assert sum(row["images"] for row in scores.per_class.values()) == len(images)


def test_without_images_metrics_are_nan() -> None:
    scores = Accuracy(SEVEN).compute()
    assert all(math.isnan(value) for value in scores.metrics.values())
    assert list(scores.per_class) == list(SEVEN)


def test_classes_of_the_same_name_keep_their_own_row() -> None:
    evaluator = Accuracy(["crane", "ant", "crane"])
    evaluator.update(ranking(2, 0, 1), labeled(2))
    per_class = evaluator.compute().per_class
    assert list(per_class) == ["crane [0]", "ant", "crane [2]"]
    assert [row["images"] for row in per_class.values()] == [0, 0, 1]


def test_unknown_classes_are_reported_with_the_image() -> None:
    evaluator = Accuracy(SEVEN)
    with pytest.raises(UserError, match=r"cats/1\.jpg.*annotation holds class 7, but the data set has 7 classes"):
        evaluator.update(ranking(0, 1), labeled(7, "cats/1.jpg"))
    with pytest.raises(UserError, match=r"cats/1\.jpg.*predicts class 999"):
        evaluator.update(ranking(999, 1), labeled(0, "cats/1.jpg"))
    with pytest.raises(ValueError, match=r"cats/1\.jpg: a sample without a label"):
        evaluator.update(ranking(0, 1), labeled(None, "cats/1.jpg"))
    assert evaluator.images == 0
