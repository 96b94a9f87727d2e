"""The geometry of augmentation: pixels, masks and boxes must agree about where an image went."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv2kit.data.augment.view import View, centers_inside
from mbv2kit.imaging.resizing import resize_image, resize_mask

SIDES = st.integers(1, 90)


def test_window_inside_the_image_fills_the_content() -> None:
    view = View.through((10, 20, 50, 100), image=(120, 60), content=(40, 20))
    assert view.source == (10, 20, 50, 100)
    assert view.target == (0, 0, 20, 40)


def test_window_beyond_the_image_leaves_the_rest_of_the_content_empty() -> None:
    view = View.through((-100, -50, 300, 150), image=(100, 200), content=(100, 200))
    assert view.source == (0, 0, 200, 100)
    assert view.target == (50, 25, 150, 75)


@given(
    data=st.data(),
    image=st.tuples(SIDES, SIDES),
    content=st.tuples(SIDES, SIDES),
)
def test_neither_rectangle_is_ever_empty_or_out_of_bounds(
    data: st.DataObject, image: tuple[int, int], content: tuple[int, int]
) -> None:
    height, width = image
    x1, y1 = data.draw(st.integers(-200, width - 1)), data.draw(st.integers(-200, height - 1))
    x2 = data.draw(st.integers(max(x1, 0) + 1, width + 200))
    y2 = data.draw(st.integers(max(y1, 0) + 1, height + 200))
    view = View.through((x1, y1, x2, y2), image, content)
    for (left, top, right, bottom), (limit_h, limit_w) in ((view.source, image), (view.target, content)):
        assert 0 <= left < right <= limit_w
        assert 0 <= top < bottom <= limit_h


@pytest.mark.parametrize("mirror_x", [False, True])
@pytest.mark.parametrize("mirror_y", [False, True])
def test_boxes_land_where_the_pixels_land(mirror_x: bool, mirror_y: bool) -> None:
    # A white rectangle is drawn into the image; after the view its pixels must fill the converted box.
    image: NDArray[np.uint8] = np.zeros((100, 200, 3), dtype=np.uint8)
    image[20:60, 50:120] = 255
    view = View.through((-40, -20, 160, 100), (100, 200), (240, 300))
    view = View(view.source, view.target, mirror_x, mirror_y)
    canvas = view.paste(view.cut(image, resize_image), np.zeros((240, 300, 3), dtype=np.uint8))
    rows, columns = np.nonzero(canvas[:, :, 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box = np.array([[50, 20, 120, 60]], dtype=np.float32)
    assert view.convert(box)[0] == pytest.approx(found, abs=0.75)


def test_mirrored_cut_equals_numpys_reversal() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    mask = image[:, :, 0]
    whole = ((0, 0, 9, 7), (0, 0, 9, 7))
    assert np.array_equal(View(*whole, mirror_x=True).cut(image, resize_image), image[:, ::-1])
    assert np.array_equal(View(*whole, mirror_y=True).cut(mask, resize_mask), mask[::-1])
    assert np.array_equal(View(*whole, True, True).cut(mask, resize_mask), mask[::-1, ::-1])


def test_center_on_the_far_edge_is_outside() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [8, 0, 12, 4]], dtype=np.float32)
    inside = centers_inside(boxes, np.array([[0, 0, 10, 10], [5, 0, 11, 20]]))
    assert inside.tolist() == [[True, False, False], [True, True, True]]
