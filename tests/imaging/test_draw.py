from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mbv2kit.imaging.colors import class_colors, palette
from mbv2kit.imaging.draw import (
    annotate,
    annotate_ground_truth,
    annotate_together,
    contact_sheet,
    next_to_ground_truth,
)
from mbv2kit.structures import IGNORE, BoxClasses, Classification, Detections, Image, Sample, Segmentation

NAMES = ("background", "cat", "dog", "a class whose name is far too long to be written on any image of this size")


def gray(height: int, width: int) -> Image:
    return np.full((height, width, 3), 90, dtype=np.uint8)


def detections(boxes: list[list[float]], scores: list[float], class_id: int = 1) -> Detections:
    return Detections(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.full(len(boxes), class_id),
        np.array(scores, dtype=np.float32),
    )


def shows(image: Image, color: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(np.all(image == color, axis=2))


def test_colors_of_a_class_do_not_depend_on_their_number() -> None:
    np.testing.assert_array_equal(class_colors(21), class_colors(200)[:21])
    assert class_colors(300).shape == (300, 3)
    assert len(np.unique(class_colors(256), axis=0)) == 256


@pytest.mark.parametrize(("count", "least"), [(21, 30), (80, 15)])
def test_colors_are_well_apart(count: int, least: float) -> None:
    lab = cv2.cvtColor(class_colors(count)[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    # A difference of 2.3 in CIELAB is just noticeable.
    assert distances[~np.eye(count, dtype=bool)].min() > least


def test_background_is_black_and_drawing_it_leaves_the_colors_alone() -> None:
    assert palette(NAMES)[0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(palette(NAMES)[1:], class_colors(4)[1:])
    np.testing.assert_array_equal(palette(["cat"]), class_colors(1))


def test_a_box_is_outlined_where_it_lies_in_the_color_of_its_class() -> None:
    image = gray(400, 600)
    drawn = annotate(image, detections([[100, 150, 300, 350]], [0.9]), NAMES)
    assert drawn.shape == image.shape
    assert (image == 90).all(), "the image itself must stay as it is"
    outline = shows(drawn, class_colors(2)[1])
    assert outline[150:351, 100].all()
    assert outline[150:351, 300].all()
    assert outline[350, 100:301].all()
    assert not outline[160:340, 110:290].any()
    assert outline[135:150, 101:110].any(), "the tag stands above the box"


def test_boxes_of_a_low_score_are_left_out() -> None:
    prediction = detections([[100, 150, 300, 350]], [0.39])
    np.testing.assert_array_equal(annotate(gray(400, 600), prediction, NAMES), gray(400, 600))
    assert (annotate(gray(400, 600), prediction, NAMES, min_score=0.3) != 90).any()


def test_small_images_are_enlarged_and_their_boxes_with_them() -> None:
    drawn = annotate(gray(80, 160), detections([[40, 20, 120, 60]], [0.9]), NAMES)
    assert drawn.shape == (160, 320, 3)
    outline = shows(drawn, class_colors(2)[1])
    assert outline[40:121, 80].all()
    assert outline[40:121, 240].all()


def test_a_tag_has_the_class_of_a_second_model_too() -> None:
    boxes = detections([[100, 150, 300, 350], [10, 10, 90, 90]], [0.98, 0.3])
    then = replace(boxes, then=BoxClasses(np.array([1, 0]), np.array([0.91, 0.5], dtype=np.float32)))
    drawn = annotate_together(gray(400, 600), [(then, NAMES)], 0.4, ("flat", "round"))
    # What is written is "cat 0.98, round 0.91".
    same = detections([[100, 150, 300, 350]], [0.91])
    np.testing.assert_array_equal(drawn, annotate(gray(400, 600), same, ("background", "cat 0.98, round")))


def test_tags_do_not_cover_each_other() -> None:
    same = detections([[100, 150, 300, 350]] * 2, [0.9, 0.8])
    one = annotate(gray(400, 600), detections([[100, 150, 300, 350]], [0.9]), NAMES)
    two = annotate(gray(400, 600), same, NAMES)
    color = class_colors(2)[1]
    tag = shows(one, color)[130:149].sum()
    assert shows(two, color)[130:149].sum() > 1.8 * tag


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    corners=st.lists(st.tuples(*[st.floats(-50, 450, width=32)] * 4), max_size=5),
    class_id=st.integers(1, 3),
)
def test_any_box_can_be_drawn_on_any_image(
    size: tuple[int, int], corners: list[tuple[float, float, float, float]], class_id: int
) -> None:
    prediction = detections([list(box) for box in corners], [0.9] * len(corners), class_id)
    drawn = annotate(gray(*size), prediction, NAMES)
    assert drawn.dtype == np.uint8
    assert max(drawn.shape) == max(320, *size)


def test_the_best_five_classes_have_bars_as_long_as_their_scores() -> None:
    names = [f"class {i}" for i in range(7)]
    scores = np.array([0.8, 0.4, 0.2, 0.1, 0.05, 0.03, 0.02], dtype=np.float32)
    drawn = annotate(gray(300, 400), Classification(np.arange(7), scores), names)
    np.testing.assert_array_equal(drawn[:300], gray(300, 400))
    widths = [shows(drawn[300:], color).sum(axis=1).max() for color in class_colors(7)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.05)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.05)
    assert min(widths[:5]) > 0
    assert widths[5:] == [0, 0]


def test_a_class_of_score_zero_has_no_bar() -> None:
    drawn = annotate(gray(300, 400), Classification(np.array([0]), np.zeros(1, dtype=np.float32)), ["cat"])
    assert not shows(drawn, class_colors(1)[0]).any()


def test_regions_are_blended_and_the_background_stays_clear() -> None:
    mask = np.zeros((300, 400), dtype=np.uint8)
    mask[:, 200:] = 1
    drawn = annotate(gray(300, 400), Segmentation(mask), NAMES)
    assert (drawn[:300, :199] == 90).all()
    assert (drawn[:300, 200] == 255).all(), "a contour parts the two"
    expected = 0.45 * 90 + 0.55 * class_colors(2)[1]
    np.testing.assert_allclose(drawn[100, 300], expected, atol=1)
    legend = drawn[300:]
    assert shows(legend, class_colors(2)[1]).any()
    assert not shows(legend, class_colors(3)[2]).any(), "only classes that are there have a place in the legend"


def test_a_legend_of_many_classes_takes_more_lines() -> None:
    names = [f"class {i}" for i in range(40)]
    few = np.zeros((300, 400), dtype=np.uint8)
    many = np.tile(np.arange(40, dtype=np.uint8).repeat(10), (300, 1))
    heights = [annotate(gray(300, 400), Segmentation(mask), names).shape[0] for mask in (few, many)]
    assert heights[1] > heights[0] + 5 * 13


def test_tasks_on_one_drawing_are_regions_under_boxes_with_strips_below() -> None:
    """Each part is, pixel by pixel, where and what the drawing of its task alone has."""
    mask = np.zeros((300, 400), dtype=np.uint8)
    mask[:, 200:] = 1
    regions, boxes = Segmentation(mask), detections([[100, 150, 300, 250]], [0.9], class_id=2)
    classes = Classification(np.arange(3), np.array([0.8, 0.15, 0.05], dtype=np.float32))
    # In any order.
    drawn = annotate_together(gray(300, 400), [(classes, NAMES), (boxes, NAMES), (regions, NAMES)])
    with_regions, with_boxes, with_classes = (
        annotate(gray(300, 400), each, NAMES) for each in (regions, boxes, classes)
    )
    legend, strip = with_regions[300:], with_classes[300:]
    np.testing.assert_array_equal(drawn[300:], np.vstack([legend, strip]))
    of_boxes = (with_boxes != 90).any(axis=2)
    assert of_boxes.any()
    np.testing.assert_array_equal(drawn[:300][of_boxes], with_boxes[of_boxes])
    np.testing.assert_array_equal(drawn[:300][~of_boxes], with_regions[:300][~of_boxes])


@pytest.mark.parametrize("size", [(80, 160), (300, 100), (400, 600)])
def test_strips_below_a_drawing_are_as_wide_as_each_other(size: tuple[int, int]) -> None:
    regions = Segmentation(np.ones(size, dtype=np.uint8))
    classes = Classification(np.array([2]), np.ones(1, dtype=np.float32))
    drawn = annotate_together(gray(*size), [(regions, NAMES), (detections([], []), NAMES), (classes, NAMES)])
    alone = [annotate(gray(*size), each, NAMES) for each in (regions, classes)]
    assert drawn.shape[1] == alone[0].shape[1] == alone[1].shape[1]
    enlarged = round(size[0] * max(1, 320 / max(size)))
    assert drawn.shape[0] == alone[0].shape[0] + alone[1].shape[0] - enlarged


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(10, 20\).*\(20, 10\)"):
        annotate(gray(10, 20), Segmentation(np.zeros((20, 10), dtype=np.uint8)), NAMES)


def test_ground_truth_is_drawn_like_a_prediction_without_scores() -> None:
    box = np.array([[100, 150, 300, 350]], dtype=np.float32)
    sample = Sample(image=gray(400, 600), image_id="a", boxes=box, labels=np.array([1]))
    assert shows(annotate_ground_truth(sample, NAMES), class_colors(2)[1])[150:351, 100].all()

    crowd = Sample(image=gray(400, 600), image_id="a", boxes=box, labels=np.array([1]), crowd=np.array([True]))
    tags = [shows(annotate_ground_truth(each, NAMES), class_colors(2)[1])[:149].sum() for each in (sample, crowd)]
    assert tags[1] > tags[0], "a crowd says so in its tag"

    mask = np.full((400, 600), IGNORE, dtype=np.uint8)
    drawn = annotate_ground_truth(Sample(image=gray(400, 600), image_id="a", mask=mask), NAMES)
    assert (drawn[:400] != 90).all()

    labeled = annotate_ground_truth(Sample(image=gray(400, 600), image_id="a", label=2), NAMES)
    assert (labeled[400:] != labeled[-1, -1]).any()
    with pytest.raises(ValueError, match="b has neither"):
        annotate_ground_truth(Sample(image=gray(4, 6), image_id="b"), NAMES)


def test_ground_truth_and_prediction_stand_side_by_side_though_one_is_taller() -> None:
    sample = Sample(image=gray(400, 600), image_id="a", label=1)
    prediction = Classification(np.array([2, 1, 0]), np.array([0.5, 0.3, 0.2], dtype=np.float32))
    both = next_to_ground_truth(sample, prediction, NAMES)
    ground_truth, predicted = annotate_ground_truth(sample, NAMES), annotate(sample.image, prediction, NAMES)
    assert predicted.shape[0] > ground_truth.shape[0]
    assert both.shape[1] > 2 * 600
    np.testing.assert_array_equal(both[-predicted.shape[0] :, -600:], predicted)
    caption = both.shape[0] - predicted.shape[0]
    np.testing.assert_array_equal(both[caption : caption + ground_truth.shape[0], :600], ground_truth)
    assert (both[:caption, :600] > 200).any(), "the caption"


def test_a_sheet_holds_each_image_unchanged_in_reading_order() -> None:
    images = [np.full((20 + i, 30 - i, 3), 50 * (i + 1), dtype=np.uint8) for i in range(3)]
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (21 + 8 + 22, 30 + 8 + 29, 3)
    assert (sheet[:20, :30] == 50).all()
    assert (sheet[:21, 38:67] == 100).all()
    assert (sheet[29:51, :28] == 150).all()


def test_a_sheet_makes_large_images_smaller_and_has_no_empty_columns() -> None:
    assert contact_sheet([gray(1000, 500)], columns=4, cell=200).shape == (200, 100, 3)


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 4"):
        contact_sheet([])
