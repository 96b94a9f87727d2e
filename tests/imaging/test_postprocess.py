from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from mbv2kit.errors import UserError
from mbv2kit.imaging.postprocess import NmsOptions, postprocess, suppress
from mbv2kit.structures import Classification, Detections, Segmentation


def floats(values: Any) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def random_boxes(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    corners = rng.random((count, 2)) * 80
    return floats(np.concatenate([corners, corners + 1 + rng.random((count, 2)) * 40], axis=1))


def test_suppression_keeps_the_best_of_a_class_and_all_of_the_others() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    boxes = floats([box, [0.0, 0.0, 10.0, 9.0], box, [50.0, 50.0, 60.0, 60.0]])
    scores, classes = floats([0.6, 0.9, 0.7, 0.1]), np.array([0, 0, 1, 0])
    assert suppress(boxes, scores, classes, 0.6, 10).tolist() == [1, 2, 3]
    assert suppress(boxes, scores, classes, 0.95, 10).tolist() == [1, 2, 0, 3]
    assert suppress(boxes, scores, classes, 0.6, 2).tolist() == [1, 2]
    nothing = suppress(np.zeros((0, 4), np.float32), floats([]), np.zeros(0, np.int64), 0.6, 10)
    assert nothing.shape == (0,)


def test_the_earlier_of_equal_boxes_is_kept() -> None:
    boxes = np.tile(floats([[3, 3, 9, 9]]), (4, 1))
    assert suppress(boxes, floats([0.5] * 4), np.zeros(4, np.int64), 0.5, 10).tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 400),
    limit=st.integers(1, 120),
    threshold=st.sampled_from([0.3, 0.45, 0.6]),
)
def test_suppression_is_torchvisions(seed: int, count: int, limit: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, count), floats(rng.permutation(count) / max(1, count))
    classes = rng.integers(0, 3, count)
    expected = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), threshold)
    assert suppress(boxes, scores, classes, threshold, limit).tolist() == expected[:limit].tolist()


def test_classes_are_ranked_and_equal_ones_keep_their_order() -> None:
    (prediction,) = postprocess("classification", {"probabilities": floats([[0.1, 0.4, 0.1, 0.4]])}, (8, 8))
    assert isinstance(prediction, Classification)
    assert prediction.class_ids.tolist() == [1, 3, 0, 2]
    assert prediction.scores.tolist() == floats([0.4, 0.4, 0.1, 0.1]).tolist()


def test_boxes_come_out_in_pixels_clipped_best_first() -> None:
    outputs = {
        "boxes": floats([[[-0.5, 0.25, 0.5, 0.75], [0.5, 0.5, 1.5, 1.0], [0.1, 0.1, 0.2, 0.2]]]),
        "scores": floats([[[0.3, 0.0], [0.0, 0.9], [0.05, 0.05]]]),
    }
    (prediction,) = postprocess("detection", outputs, (20, 40), NmsOptions(0.05, 0.5, 10))
    assert isinstance(prediction, Detections)
    assert prediction.boxes.tolist() == [[20, 10, 40, 20], [0, 5, 20, 15]]
    assert prediction.class_ids.tolist() == [1, 0]
    assert prediction.scores.tolist() == floats([0.9, 0.3]).tolist()


def test_the_thousand_best_boxes_are_candidates() -> None:
    scores = np.linspace(0.1, 0.9, 1500, dtype=np.float32)[None, :, None]
    places = np.arange(1500, dtype=np.float32) / 1500
    boxes = np.stack([places, places * 0, places + 1e-4, places * 0 + 1], axis=1)[None]
    (prediction,) = postprocess(
        "detection", {"boxes": boxes, "scores": scores}, (100, 1500), NmsOptions(0.05, 0.5, 5000)
    )
    assert isinstance(prediction, Detections)
    assert len(prediction.boxes) == 1000
    assert prediction.scores.tolist() == scores[0, :499:-1, 0].tolist()


def test_a_mask_is_taken_as_it_is() -> None:
    masks = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    predictions = postprocess("segmentation", {"mask": masks}, (2, 3))
    assert all(
        isinstance(each, Segmentation) and np.array_equal(each.mask, masks[i]) for i, each in enumerate(predictions)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 0.5, 10), "^score_threshold must be a number from 0 to 1, got 1.5"),
        ((0.5, -0.1, 10), "^nms_iou must be a number from 0 to 1, got -0.1"),
        ((0.5, 0.5, 0), "^max_detections must be a whole number from 1 to 10,000, got 0"),
    ],
)
def test_options_out_of_range_are_refused(arguments: tuple[float, float, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NmsOptions(*arguments)
