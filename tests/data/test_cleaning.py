import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mbv2kit.data.cleaning import ObjectFilter, clean_boxes

BOXES = arrays(
    np.float32,
    st.tuples(st.integers(0, 8), st.just(4)),
    elements=st.floats(-300, 300, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]),
)


def test_each_kind_of_fault() -> None:
    boxes = np.array(
        [
            [10, 20, 30, 40],  # good
            [-5, -5, 30, 40],  # reaches beyond the top left
            [90, 40, 130, 70],  # reaches beyond the bottom right
            [30, 20, 10, 40],  # ends before it starts
            [10, 20, 10, 40],  # no width
            [10, 20, 10.5, 40],  # too narrow
            [200, 10, 220, 30],  # outside the image
            [np.nan, 0, 10, 10],
            [0, 0, np.inf, 10],
        ],
        dtype=np.float32,
    )
    clipped, keep = clean_boxes(boxes, height=50, width=100)
    assert keep.tolist() == [True, True, True, False, False, False, False, False, False]
    assert clipped[:3].tolist() == [[10, 20, 30, 40], [0, 0, 30, 40], [90, 40, 100, 50]]


def test_min_side_is_the_shortest_side_kept() -> None:
    boxes = np.array([[0, 0, 2, 9], [0, 0, 1.99, 9]], dtype=np.float32)
    assert clean_boxes(boxes, 10, 10, min_side=2)[1].tolist() == [True, False]
    assert not clean_boxes(np.array([[3, 3, 3, 9]], dtype=np.float32), 10, 10, min_side=0)[1].any()


def test_no_boxes_stay_no_boxes() -> None:
    clipped, keep = clean_boxes(np.empty((0, 4), np.float32), 10, 10)
    assert clipped.shape == (0, 4)
    assert keep.shape == (0,)
    assert clipped.dtype == np.float32
    assert keep.dtype == np.bool_


@given(BOXES, st.integers(1, 200), st.integers(1, 200))
def test_kept_boxes_lie_in_the_image_and_cleaning_again_changes_nothing(
    boxes: np.ndarray, height: int, width: int
) -> None:
    before = boxes.copy()
    clipped, keep = clean_boxes(boxes, height, width)
    np.testing.assert_array_equal(boxes, before)
    assert np.isfinite(clipped).all()
    assert (clipped >= 0).all()
    assert (clipped <= [width, height, width, height]).all()
    kept = clipped[keep]
    assert (kept[:, 2:] - kept[:, :2] >= 1).all()
    again, keep_again = clean_boxes(kept, height, width)
    assert keep_again.all()
    np.testing.assert_array_equal(again, kept)


def test_a_filter_keeps_objects_with_their_boxes_and_remembers_where_it_dropped_some() -> None:
    keep = ObjectFilter(min_side=1)
    kept, boxes = keep("a.jpg", (50, 100), ["good", "thin", "wide", "nan"], [
        (10, 20, 30, 40), (10, 20, 10.5, 40), (90, 40, 130, 70), (0, 0, float("nan"), 1)
    ])  # fmt: skip
    assert kept == ["good", "wide"]
    assert boxes.tolist() == [[10, 20, 30, 40], [90, 40, 100, 50]]
    assert keep("b.jpg", (50, 100), kept[:0], [])[1].shape == (0, 4)
    keep("c.jpg", (50, 100), [object()], [(60, 60, 50, 50)])
    keep("d.jpg", (50, 100), [object()] * 2, [(-20, 0, -10, 9), (5, 60, 9, 70)])
    assert keep.dropped == {
        "without area": ["a.jpg", "c.jpg"],
        "outside their image": ["d.jpg", "d.jpg"],
        "with NaN or infinity": ["a.jpg"],
    }


def test_boxes_far_beyond_their_image_are_counted() -> None:
    keep = ObjectFilter(min_side=0)
    keep("a.jpg", (50, 100), ["in", "out", "rounded"], [(0, 0, 9, 9), (90, 40, 180, 80), (0, 0, 100.9, 50.9)])
    assert list(keep.warnings()) == [
        "1 of 3 boxes reach beyond their image by more than a pixel, in 1 images: a.jpg; they are clipped. Check the "
        "format of the boxes, and that the images are those that were annotated"
    ]


def test_boxes_as_fractions_of_the_image_are_noticed() -> None:
    keep = ObjectFilter(min_side=0)
    keep("a.jpg", (50, 100), ["a", "b"], [(0, 0, 0.5, 1), (0.1, 0.1, 0.9, 0.2)])
    (warning,) = keep.warnings()
    assert warning.startswith("All 2 boxes are no larger than a pixel")
    keep("a.jpg", (50, 100), ["c"], [(0, 0, 5, 5)])
    assert not list(keep.warnings())


def test_numbers_beyond_the_range_of_floats_are_infinite() -> None:
    keep = ObjectFilter(min_side=0)
    assert keep("a.jpg", (50, 100), ["a"], [(0, 0, 1e300, 5)])[0] == []
    assert keep.dropped["with NaN or infinity"] == ["a.jpg"]
