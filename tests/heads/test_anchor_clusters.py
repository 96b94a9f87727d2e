import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mbv2kit.heads.anchor_clusters import MOST_SHAPES, cluster_shapes, improve, mean_iou, shape_iou
from mbv2kit.heads.registry import Shapes

PLANTED = np.array([[0.05, 0.1], [0.2, 0.15], [0.3, 0.6], [0.9, 0.8]])

SIDES = st.integers(1, 100).map(lambda percent: percent / 100)
SHAPES = st.integers(1, 40).flatmap(lambda count: arrays(np.float64, (count, 2), elements=SIDES))


def around(anchors: Shapes, each: int, spread: float, seed: int = 0) -> Shapes:
    """Boxes whose sides lie within a share ``spread`` of those of an anchor, ``each`` of them an anchor."""
    rng = np.random.default_rng(seed)
    return np.concatenate([anchor * rng.uniform(1 - spread, 1 + spread, (each, 2)) for anchor in anchors])


def test_overlap_is_that_of_boxes_on_one_center() -> None:
    overlaps = shape_iou(np.array([[2.0, 4.0], [3.0, 3.0]]), np.array([[2.0, 4.0], [4.0, 2.0], [1.0, 1.0]]))
    np.testing.assert_allclose(overlaps, [[1, 4 / 12, 1 / 8], [6 / 11, 6 / 11, 1 / 9]])
    shapes = np.array([[2.0, 4.0], [4.0, 2.0]])
    assert mean_iou(shapes, shapes[:1]) == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found_smallest_first(seed: int) -> None:
    shapes = np.random.default_rng(seed).permutation(around(PLANTED, 50, 0.1, seed))
    found = cluster_shapes(shapes, 4, seed)
    np.testing.assert_allclose(found, PLANTED, rtol=0.06)
    assert mean_iou(shapes, found) > 0.88


def test_a_seed_gives_the_same_anchors_again() -> None:
    shapes = np.random.default_rng(0).uniform(0.01, 1, (500, 2))
    assert np.array_equal(cluster_shapes(shapes, 5, seed=3), cluster_shapes(shapes, 5, seed=3))
    assert not np.array_equal(cluster_shapes(shapes, 5, seed=3), cluster_shapes(shapes, 5, seed=4))


@given(SHAPES, st.integers(1, 6), st.integers(0, 99))
def test_boxes_drawn_at_random_never_fit_better_than_what_is_made_of_them(
    shapes: Shapes, count: int, seed: int
) -> None:
    start = np.random.default_rng(seed).choice(shapes, count)
    moved = improve(shapes, start)
    assert moved.shape == start.shape
    assert mean_iou(shapes, moved) >= mean_iou(shapes, start)


@given(SHAPES, st.integers(1, 6))
@settings(max_examples=50)
def test_anchors_are_as_many_as_wanted_and_no_larger_or_smaller_than_the_boxes(shapes: Shapes, count: int) -> None:
    found = cluster_shapes(shapes, count)
    assert len(found) == min(count, len(np.unique(shapes, axis=0)))
    assert (found >= shapes.min(axis=0)).all()
    assert (found <= shapes.max(axis=0)).all()
    assert (np.diff(found.prod(axis=1)) >= 0).all()


def test_more_anchors_fit_better() -> None:
    shapes = np.random.default_rng(0).uniform(0.02, 1, (400, 2)) ** 2
    fits = [mean_iou(shapes, cluster_shapes(shapes, count)) for count in range(1, 10)]
    assert (np.diff(fits) > 0).all()


def test_few_different_boxes_are_anchors_themselves() -> None:
    shapes = np.array([[0.5, 0.5], [0.1, 0.2], [0.5, 0.5], [0.1, 0.2]])
    assert cluster_shapes(shapes, 5).tolist() == [[0.1, 0.2], [0.5, 0.5]]


def test_of_very_many_boxes_a_part_does() -> None:
    shapes = around(PLANTED, MOST_SHAPES, 0.1)
    np.testing.assert_allclose(cluster_shapes(shapes, 4), PLANTED, rtol=0.01)
