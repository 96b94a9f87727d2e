import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.models.box_fusion import fuse_boxes
from mbv2kit.structures import Detections

Row = tuple[list[float], int, float]
OPTIONS = NmsOptions(score_threshold=0.01, nms_iou=0.5, max_detections=10)


def view(*rows: Row) -> Detections:
    boxes = np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.array([each for _, each, _ in rows], dtype=np.int64), np.array([s for *_, s in rows], np.float32)
    )


def test_boxes_of_an_object_become_their_mean_and_a_lone_one_is_outvoted() -> None:
    fused = fuse_boxes(
        [
            view(([0, 0, 10, 10], 0, 0.8), ([50, 50, 60, 60], 0, 0.9)),
            view(([0, 0, 10, 12], 0, 0.4)),
            view(([0, 0, 10, 10], 1, 0.3)),
        ],
        OPTIONS,
    )
    np.testing.assert_allclose(fused.scores, [0.4, 0.3, 0.1], rtol=1e-6)
    assert fused.class_ids.tolist() == [0, 0, 1]
    np.testing.assert_allclose(fused.boxes[0], [0, 0, 10, (0.8 * 10 + 0.4 * 12) / 1.2], rtol=1e-6)


def test_one_view_stays_as_it_is() -> None:
    alone = view(([0, 0, 10, 10], 0, 0.8), ([0, 0, 10, 9], 0, 0.7), ([5, 5, 9, 9], 1, 0.2))
    fused = fuse_boxes([alone], OPTIONS)
    np.testing.assert_array_equal(fused.boxes, alone.boxes)
    np.testing.assert_array_equal(fused.class_ids, alone.class_ids)
    np.testing.assert_allclose(fused.scores, alone.scores)


def test_no_box_is_none() -> None:
    assert len(fuse_boxes([view(), view()], OPTIONS).boxes) == 0


BOX = st.tuples(*[st.floats(0, 90, width=32)] * 2, *[st.floats(1, 40, width=32)] * 2).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
VIEW = st.lists(st.tuples(BOX, st.integers(0, 2), st.floats(0.015625, 1, width=32)), max_size=8)


@given(st.lists(VIEW, min_size=1, max_size=4))
def test_scores_are_means_and_boxes_lie_within_those_of_their_class(
    rows: list[list[tuple[list[float], int, float]]],
) -> None:
    views = [view(*each) for each in rows]
    fused = fuse_boxes(views, NmsOptions(score_threshold=0.01, nms_iou=0.5, max_detections=100))
    total = sum(float(each.scores.sum()) for each in views)
    assert float(fused.scores.sum()) * len(views) == pytest.approx(total, rel=1e-4, abs=1e-5)
    assert fused.scores.max(initial=0) <= max(float(each.scores.max(initial=0)) for each in views) + 1e-6
    assert (np.diff(fused.scores) <= 0).all()
    for box, class_id in zip(fused.boxes, fused.class_ids, strict=True):
        own = np.concatenate([each.boxes[each.class_ids == class_id] for each in views])
        assert (box >= own.min(axis=0) - 1e-3).all()
        assert (box <= own.max(axis=0) + 1e-3).all()
