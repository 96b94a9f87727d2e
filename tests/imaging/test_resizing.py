import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv2kit.imaging.resizing import cut_box, resize_as_tf1, resize_image, resize_mask
from mbv2kit.structures import Image

# OpenCV 4 interpolates with coarser weights.
TOLERANCE = 1.5 if int(cv2.__version__.partition(".")[0]) >= 5 else 2.5
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 200))


def resize_by_definition(image: Image, height: int, width: int) -> NDArray[np.float64]:
    """Averages over blocks, then straight lines between pixel centers, one axis after the other."""
    result: NDArray[np.float64] = image.astype(np.float64)
    for axis, wanted in enumerate((height, width)):
        side, block = result.shape[axis], 1
        while wanted * block * 2 <= side:
            block *= 2
        result = np.moveaxis(result, axis, 0)
        result = np.concatenate([result, np.repeat(result[-1:], -side % block, axis=0)])
        result = result.reshape(-1, block, *result.shape[1:]).mean(axis=1)
        places = ((np.arange(wanted) + 0.5) * side / wanted) / block - 0.5
        lines = [np.interp(places, np.arange(len(result)), line) for line in result.reshape(len(result), -1).T]
        result = np.moveaxis(np.stack(lines, axis=1).reshape(wanted, *result.shape[1:]), 0, axis)
    return result


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(st.integers(1, 90), st.integers(1, 90)), new=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_resizing_averages_over_blocks_and_interpolates_the_rest(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    # Half a level for the averages, and what OpenCV's fixed-point weights leave of the second rounding.
    np.testing.assert_allclose(resize_image(image, *new), resize_by_definition(image, *new), atol=TOLERANCE)


@settings(max_examples=60, deadline=None)
@given(old=st.tuples(st.integers(1, 90), st.integers(1, 90)), new=st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_tensorflow_1_aligns_the_first_pixels_and_interpolates(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    expected: NDArray[np.float64] = image.astype(np.float64)
    for axis, (side, wanted) in enumerate(zip(old, new, strict=True)):
        lines = np.moveaxis(expected, axis, 0)
        places = np.arange(wanted) * side / wanted
        found = [np.interp(places, np.arange(side), line) for line in lines.reshape(side, -1).T]
        expected = np.moveaxis(np.stack(found, axis=1).reshape(wanted, *lines.shape[1:]), 0, axis)
    # A place in float32 may be off by a millionth of the side, and neighbors by 255 levels.
    np.testing.assert_allclose(resize_as_tf1(image, *new), expected, atol=0.01)


def test_tensorflow_1_answers_as_recorded() -> None:
    # tf.compat.v1.image.resize_bilinear of TensorFlow 2.21 on these numbers.
    image = np.array([[0, 10, 20], [30, 40, 50], [90, 100, 250]], dtype=np.uint8)
    found = resize_as_tf1(np.repeat(image[..., None], 3, axis=2), 2, 4)
    np.testing.assert_allclose(found[..., 1], [[0, 7.5, 15, 20], [60, 67.5, 110, 150]], atol=1e-4)


@given(size=SIZES, value=st.integers(0, 255))
def test_a_plain_image_stays_plain(size: tuple[int, int], value: int) -> None:
    resized = resize_image(np.full((7, 9, 3), value, dtype=np.uint8), *size)
    assert resized.shape == (*size, 3)
    assert (resized == value).all()


@given(old=SIZES, new=SIZES)
def test_a_mask_takes_the_class_under_each_new_pixels_center(old: tuple[int, int], new: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 256, old, dtype=np.uint8)
    rows, columns = (((2 * np.arange(n) + 1) * o) // (2 * n) for o, n in zip(old, new, strict=True))
    resized = resize_mask(mask, *new)
    assert resized.shape == new
    # Where a center falls just between two pixels, either of them is right.
    alternatives = [mask[np.ix_(rows + dy, columns + dx)] for dy in (-1, 0) for dx in (-1, 0)]
    on_edge_y = ((2 * np.arange(new[0]) + 1) * old[0]) % (2 * new[0]) == 0
    on_edge_x = ((2 * np.arange(new[1]) + 1) * old[1]) % (2 * new[1]) == 0
    clear = ~on_edge_y[:, None] & ~on_edge_x[None]
    np.testing.assert_array_equal(resized[clear], alternatives[3][clear])
    assert np.any([resized == each for each in alternatives], axis=0).all()


@pytest.mark.parametrize(
    ("box", "margin", "rows", "columns"),
    [
        ((2, 1, 5, 4), 0.0, (1, 4), (2, 5)),
        ((2.2, 1.9, 4.1, 3.0), 0.0, (1, 3), (2, 5)),
        ((-3, -3, 99, 99), 0.0, (0, 6), (0, 8)),
        ((2, 2, 4, 4), 0.5, (1, 5), (1, 5)),
        ((2, 2, 4, 3), 0.25, (1, 4), (1, 5)),
        ((2, 2, 4, 4), 1e9, (0, 6), (0, 8)),
        ((7.9, 5.9, 8, 6), 0.0, (5, 6), (7, 8)),
    ],
)
def test_a_box_is_cut_out_with_every_pixel_that_it_touches(
    box: tuple[float, ...], margin: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    cut = cut_box(image, np.array(box, dtype=np.float32), margin)
    np.testing.assert_array_equal(cut, image[slice(*rows), slice(*columns)])
    assert cut.base is not None, "no pixel is copied"
