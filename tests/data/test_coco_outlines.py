import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from mbv2kit.data.sources.coco.outlines import BrokenOutlineError, compact, draw_mask, read_outline

MASKS = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1))


def drawn(segmentation: object, height: int, width: int) -> np.ndarray:
    outline = read_outline(compact(segmentation), height, width)
    assert outline is not None
    return draw_mask([outline], np.array([1]), np.array([False]), height, width)


@given(MASKS)
def test_run_lengths_of_any_mask_are_taken_as_text_and_as_numbers(mask: np.ndarray) -> None:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    size = list(mask.shape)
    column_major = mask.T.reshape(-1)
    borders = np.flatnonzero(np.diff(column_major, prepend=0))
    counts = np.diff(borders, prepend=0, append=mask.size).tolist()
    for runs in (encoded["counts"].decode(), counts):
        np.testing.assert_array_equal(drawn({"size": size, "counts": runs}, *mask.shape), mask)


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=20))
def test_any_text_of_run_lengths_is_drawn_or_refused(text: str) -> None:
    try:
        outline = read_outline({"size": [6, 7], "counts": text}, 6, 7)
    except BrokenOutlineError:
        return
    assert outline is not None
    mask = draw_mask([outline], np.array([1]), np.array([False]), 6, 7)
    assert mask.shape == (6, 7)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 5.5, 1e6, -1e6, 1e7, 1e300, 2**31, 2**63])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=30,
)


@given(JSON | st.lists(st.lists(st.floats(), min_size=6, max_size=12), max_size=3))
def test_any_segmentation_is_drawn_left_out_or_refused(segmentation: object) -> None:
    try:
        outline = read_outline(compact(segmentation), 12, 9)
    except BrokenOutlineError:
        return
    if outline is not None:
        draw_mask([outline], np.array([1]), np.array([False]), 12, 9)


@given(st.lists(st.floats(-100, 100), min_size=6, max_size=6))
def test_polygons_cover_what_cocos_own_library_covers(ring: list[float]) -> None:
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring], 12, 9)))
    np.testing.assert_array_equal(drawn([ring], 12, 9), expected)


@pytest.mark.parametrize("points", [3, 1000])
def test_the_longest_polygons_need_little_memory(points: int) -> None:
    """Its edges are a million pixels long together; one more pixel is refused."""
    step = 1_000_000 // points - 1
    ring = [value for i in range(points) for value in (float(step * (i % 2)), 0.0)]
    assert drawn([ring], 12, 9).shape == (12, 9)
    with pytest.raises(BrokenOutlineError, match="pixels long"):
        read_outline(compact([[*ring, 900_000.0, 0.0, 0.0, 900_000.0]]), 12, 9)
