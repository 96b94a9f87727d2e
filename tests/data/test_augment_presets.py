"""Each augmentation preset: its crops, expansions and scales, and the preset that changes nothing."""

import math
from typing import Any

import numpy as np
import pytest

from mbv2kit.data.augment import Augment, create_augment
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess, Resize
from mbv2kit.structures import IGNORE, Detections, Image, Sample

NO_COLOR = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
STILL = {**NO_COLOR, "horizontal_flip": 0.0}


def build(preset: str, preprocess: Preprocess, **options: Any) -> Augment:
    return create_augment({"preset": preset, **options}, preprocess)


def make_image(height: int, width: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def with_boxes(image: Image, boxes: list[list[float]], crowd: list[bool] | None = None) -> Sample:
    return Sample(
        image=image,
        image_id="image",
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes)),
        crowd=None if crowd is None else np.array(crowd, dtype=np.bool_),
    )


# ------------------------------------------------------------------------------------------------ none


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "pad", "crop"])
@pytest.mark.parametrize("original", [(60, 100), (300, 200), (96, 128)])
def test_none_equals_preprocessing(resize: Resize, original: tuple[int, int]) -> None:
    preprocess = Preprocess((96, 128), resize)
    image = make_image(*original)
    result = build("none", preprocess)(Sample(image=image, image_id="a", label=1), np.random.default_rng(0))
    assert np.array_equal(result.image, preprocess(image)[0])


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "pad"])
@pytest.mark.parametrize("image", [(60, 100), (300, 200)])
def test_none_converts_boxes_as_preprocessing_restores_them(resize: Resize, image: tuple[int, int]) -> None:
    preprocess = Preprocess((96, 128), resize)
    sample = with_boxes(make_image(*image), [[10, 20, 40, 50], [0, 0, image[1], image[0]]])
    result = build("none", preprocess)(sample, np.random.default_rng(0))
    assert result.boxes is not None
    assert result.labels is not None
    _, placement = preprocess(sample.image)
    restored = placement.restore(Detections(result.boxes, result.labels, np.ones(2, dtype=np.float32)))
    assert isinstance(restored, Detections)
    assert restored.boxes == pytest.approx(sample.boxes, abs=1e-3)


def test_none_ignores_pixels_outside_the_image() -> None:
    preprocess = Preprocess((96, 128), "letterbox")
    mask = np.ones((100, 50), dtype=np.uint8)
    result = build("none", preprocess)(
        Sample(image=make_image(100, 50), image_id="a", mask=mask), np.random.default_rng(0)
    )
    assert result.mask is not None
    assert (result.mask[:96, :48] == 1).all()
    assert (result.mask[:, 48:] == IGNORE).all()


def test_none_refuses_boxes_under_the_center_crop() -> None:
    augment = build("none", Preprocess((96, 96), "crop"))
    with pytest.raises(UserError, match="'crop' cuts away"):
        augment(with_boxes(make_image(100, 100), [[0, 0, 50, 50]]), np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ classification


def crop_of_gradient(augment: Augment, width: int, height: int, seed: int) -> tuple[float, float]:
    """Returns width and height of the crop, from an image whose pixels hold their coordinates."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([columns, rows, columns], axis=2).astype(np.uint8)
    result = augment(Sample(image=image, image_id="gradient", label=0), np.random.default_rng(seed)).image.astype(float)
    size = result.shape[0]
    step = (size - 1) / size
    return (result[0, -1, 0] - result[0, 0, 0]) / step, (result[-1, 0, 1] - result[0, 0, 1]) / step


def test_classification_crops_have_the_requested_area_and_ratio() -> None:
    augment = build("classification", Preprocess((224, 224)), scale=[0.3, 0.6], ratio=[0.5, 2.0], **STILL)
    crops = np.array([crop_of_gradient(augment, 200, 160, seed) for seed in range(150)])
    area = crops.prod(axis=1) / (200 * 160)
    ratio = crops[:, 0] / crops[:, 1]
    assert area.min() == pytest.approx(0.3, abs=0.04)
    assert area.max() == pytest.approx(0.6, abs=0.04)
    assert ratio.min() >= 0.47
    assert ratio.max() <= 2.12
    # Ratios are drawn on a logarithmic scale: half of the crops are upright.
    assert abs(np.log(ratio).mean()) < 0.2


@pytest.mark.parametrize("original", [(20, 250), (250, 20)])
def test_classification_takes_the_center_if_no_crop_fits(original: tuple[int, int]) -> None:
    image = np.zeros((*original, 3), dtype=np.uint8)
    middle = [slice((side - 20) // 2, (side + 20) // 2) for side in original]
    image[middle[0], middle[1]] = 200
    augment = build("classification", Preprocess((32, 32)), scale=[1.0, 1.0], ratio=[1.0, 1.0], **STILL)
    result = augment(Sample(image=image, image_id="strip", label=0), np.random.default_rng(0))
    assert (result.image == 200).all()


def test_flips_have_their_probability() -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:, :16] = 255
    options = {"scale": [1.0, 1.0], "ratio": [1.0, 1.0], **NO_COLOR, "horizontal_flip": 0.25}
    augment = build("classification", Preprocess((32, 32)), **options)
    sample = Sample(image=image, image_id="half", label=0)
    flips = [int(augment(sample, np.random.default_rng(seed)).image[0, 0, 0] == 0) for seed in range(400)]
    # Four standard deviations of a binomial with 400 draws.
    assert abs(sum(flips) - 100) < 4 * math.sqrt(400 * 0.25 * 0.75)


# ------------------------------------------------------------------------------------------------ detection

KEEP_WHOLE = {**STILL, "expand_probability": 0.0, "crop_probability": 0.0}


def test_detection_with_all_probabilities_at_zero_equals_none() -> None:
    for resize in ("stretch", "letterbox", "pad"):
        preprocess = Preprocess((96, 128), resize)
        sample = with_boxes(make_image(120, 100), [[10, 20, 40, 50]])
        result = build("detection", preprocess, **KEEP_WHOLE)(sample, np.random.default_rng(0))
        expected = build("none", preprocess)(sample, np.random.default_rng(0))
        assert np.array_equal(result.image, expected.image)
        assert np.array_equal(result.boxes, expected.boxes)  # type: ignore[arg-type]


def test_vertical_flip_turns_boxes_over() -> None:
    augment = build("detection", Preprocess((100, 100)), **{**KEEP_WHOLE, "vertical_flip": 1.0})
    image = make_image(100, 100)
    result = augment(with_boxes(image, [[10, 20, 40, 50]]), np.random.default_rng(0))
    assert np.array_equal(result.image, image[::-1])
    assert result.boxes is not None
    assert result.boxes.tolist() == [[10, 50, 40, 80]]


def test_expansion_shrinks_the_image_into_fill() -> None:
    preprocess = Preprocess((120, 120), fill=7)
    augment = build("detection", preprocess, **{**KEEP_WHOLE, "expand_probability": 1.0, "expand_max": 3.0})
    sample = with_boxes(np.full((60, 60, 3), 200, dtype=np.uint8), [[0, 0, 60, 60]])
    shares = []
    for seed in range(100):
        result = augment(sample, np.random.default_rng(seed))
        assert result.boxes is not None
        x1, y1, x2, y2 = result.boxes[0]
        image = result.image[:, :, 0] == 200
        assert image.sum() == pytest.approx((x2 - x1) * (y2 - y1))
        assert (result.image[~image] == 7).all()
        shares.append((x2 - x1) / 120)
    assert min(shares) == pytest.approx(1 / 3, abs=0.04)
    assert max(shares) > 0.95


@pytest.mark.parametrize("min_iou", [0.1, 0.5, 0.8])
def test_crop_reaches_the_requested_iou_with_an_object(min_iou: float) -> None:
    # IoU is the same before and after the resize, so it is measured on the result: the crop is the whole input.
    options = {**KEEP_WHOLE, "crop_probability": 1.0, "crop_min_iou": [min_iou]}
    augment = build("detection", Preprocess((200, 200)), **options)
    sample = with_boxes(make_image(200, 200), [[40, 40, 160, 160]])
    cropped = 0
    for seed in range(60):
        view = augment.choose_view(sample, np.random.default_rng(seed))
        x1, y1, x2, y2 = view.source
        overlap = max(0, min(x2, 160) - max(x1, 40)) * max(0, min(y2, 160) - max(y1, 40))
        iou = overlap / ((x2 - x1) * (y2 - y1) + 120 * 120 - overlap)
        if view.source == (0, 0, 200, 200):
            continue
        cropped += 1
        assert iou >= min_iou
        assert 0.5 <= (x2 - x1) / (y2 - y1) <= 2.0
        assert min(x2 - x1, y2 - y1) >= 60
    assert cropped > (5 if min_iou == 0.8 else 50)


def test_a_crop_keeps_the_boxes_whose_center_it_holds_and_clips_them() -> None:
    augment = build("detection", Preprocess((100, 100)), **{**KEEP_WHOLE, "crop_probability": 1.0})
    grid = [[x, y, x + 30.0, y + 30.0] for x in range(0, 170, 20) for y in range(0, 170, 20)]
    sample = with_boxes(make_image(200, 200), grid, crowd=[index % 3 == 0 for index in range(len(grid))])
    for seed in range(30):
        x1, y1, x2, y2 = augment.choose_view(sample, np.random.default_rng(seed)).source
        result = augment(sample, np.random.default_rng(seed))
        assert result.labels is not None
        assert result.crowd is not None
        assert result.boxes is not None
        expected = [index for index, box in enumerate(grid) if x1 <= box[0] + 15 < x2 and y1 <= box[1] + 15 < y2]
        assert result.labels.tolist() == expected
        assert result.crowd.tolist() == [index % 3 == 0 for index in expected]
        clipped = np.clip(np.array(grid)[expected], [x1, y1, x1, y1], [x2, y2, x2, y2]) - [x1, y1, x1, y1]
        scale = 100 / np.array([x2 - x1, y2 - y1] * 2)
        assert result.boxes == pytest.approx(clipped * scale, abs=1e-3)


def test_expansion_and_crop_have_their_probabilities() -> None:
    augment = build("detection", Preprocess((64, 64)), expand_probability=0.5, crop_probability=0.0)
    sample = with_boxes(make_image(64, 64), [[0, 0, 40, 40]])
    expanded = sum(
        augment.choose_view(sample, np.random.default_rng(seed)).target != (0, 0, 64, 64) for seed in range(400)
    )
    assert abs(expanded - 200) < 4 * math.sqrt(400 * 0.25) + 20


@pytest.mark.parametrize(
    ("boxes", "crowd"), [([], []), ([[0.0, 0.0, 30.0, 30.0]], [True]), ([[300.0, 300.0, 400.0, 400.0]], [False])]
)
def test_an_image_without_objects_is_kept_whole(boxes: list[list[float]], crowd: list[bool]) -> None:
    augment = build("detection", Preprocess((64, 64)), crop_probability=1.0, expand_probability=0.0)
    sample = with_boxes(make_image(100, 100), boxes, crowd)
    for seed in range(20):
        assert augment.choose_view(sample, np.random.default_rng(seed)).source == (0, 0, 100, 100)
    result = augment(sample, np.random.default_rng(0))
    assert result.boxes is not None
    assert result.boxes.shape[1] == 4


def test_boxes_too_small_to_keep_are_dropped() -> None:
    augment = build("detection", Preprocess((50, 50)), **KEEP_WHOLE)
    sample = with_boxes(make_image(500, 500), [[10, 10, 15, 100], [10, 10, 100, 100], [20, 20, 20, 20]])
    result = augment(sample, np.random.default_rng(0))
    assert result.labels is not None
    assert result.labels.tolist() == [1]


# ------------------------------------------------------------------------------------------------ segmentation


def index_mask(height: int, width: int) -> Sample:
    """Returns an image and mask whose values are positions of pixels."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([columns, rows, columns], axis=2).astype(np.uint8)
    return Sample(image=image, image_id="index", mask=columns.astype(np.uint8))


def test_segmentation_at_scale_one_is_an_exact_crop() -> None:
    augment = build("segmentation", Preprocess((64, 80), "pad"), scale=[1.0, 1.0], **STILL)
    # Smaller than the input in one direction: "pad" keeps its size, so the crop is not resampled.
    sample = index_mask(50, 80)
    result = augment(sample, np.random.default_rng(0))
    assert sample.mask is not None
    assert result.mask is not None
    assert np.array_equal(result.image[:50], sample.image)
    assert np.array_equal(result.mask[:50], sample.mask)
    assert (result.image[50:] == 127).all()
    assert (result.mask[50:] == IGNORE).all()


def test_segmentation_turns_image_and_mask_upside_down_together() -> None:
    options = {"scale": [1.0, 1.0], **NO_COLOR, "horizontal_flip": 0.0, "vertical_flip": 1.0}
    image = make_image(64, 64)
    mask = (image[..., 0] // 64).astype(np.uint8)
    sample = Sample(image=image, image_id="a", mask=mask)
    result = build("segmentation", Preprocess((64, 64)), **options)(sample, np.random.default_rng(0))
    assert np.array_equal(result.image, image[::-1])
    assert result.mask is not None
    assert np.array_equal(result.mask, mask[::-1])


def test_segmentation_scales_come_in_steps_relative_to_preprocessing() -> None:
    augment = build("segmentation", Preprocess((50, 100), "stretch"), scale=[0.5, 2.0], scale_step=0.25, **STILL)
    sample = index_mask(100, 200)
    scales = set()
    for seed in range(200):
        view = augment.choose_view(sample, np.random.default_rng(seed))
        source, target = np.array(view.source), np.array(view.target)
        scale = (target[2:] - target[:2]) / (source[2:] - source[:2]) / 0.5
        assert scale[0] == pytest.approx(scale[1], rel=0.03)
        scales.add(round(float(scale[1]) * 20) / 20)
    assert scales == {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}


def test_segmentation_scale_step_zero_takes_any_scale_in_the_range() -> None:
    augment = build("segmentation", Preprocess((200, 200)), scale=[0.5, 1.0], scale_step=0, **STILL)
    sample = index_mask(200, 200)
    shown = {augment.choose_view(sample, np.random.default_rng(seed)).target[2] for seed in range(100)}
    assert len(shown) > 40
    assert min(shown) in range(100, 106)
    assert max(shown) in range(195, 201)


def test_segmentation_crops_reach_every_corner() -> None:
    augment = build("segmentation", Preprocess((20, 20), "stretch"), scale=[2.0, 2.0], **STILL)
    sample = index_mask(24, 24)
    corners = {augment.choose_view(sample, np.random.default_rng(seed)).source[:2] for seed in range(600)}
    # Twice the size of 20 after preprocessing, from an image of 24: windows of 12, at 0..12 on each axis.
    assert {(0, 0), (12, 0), (0, 12), (12, 12)} <= corners
    assert max(max(corner) for corner in corners) == 12


def test_segmentation_mask_holds_only_classes_of_the_sample() -> None:
    mask = np.zeros((90, 120), dtype=np.uint8)
    mask[30:60, 40:80] = 10
    sample = Sample(image=make_image(90, 120), image_id="classes", mask=mask)
    augment = build("segmentation", Preprocess((65, 65), "pad"))
    for seed in range(30):
        result = augment(sample, np.random.default_rng(seed))
        assert result.mask is not None
        assert set(np.unique(result.mask)) <= {0, 10, IGNORE}
        assert ((result.mask == IGNORE) == (result.image == 127).all(axis=2)).mean() > 0.99


@pytest.mark.parametrize("preset", ["classification", "segmentation"])
def test_training_images_can_have_another_size(preset: str) -> None:
    preprocess = Preprocess((96, 128), "stretch")
    augment = create_augment({"preset": preset, "size": [48, 64]}, preprocess)
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    sample = Sample(image=image, image_id="x", label=1, mask=image[:, :, 0] % 5)
    shown = augment(sample, np.random.default_rng(1))
    assert shown.image.shape == (48, 64, 3)
    assert shown.mask is not None
    assert shown.mask.shape == (48, 64)


@pytest.mark.parametrize("size", [[48], [48, 64, 3], [48.5, 64], [0, 64], "large"])
def test_a_training_size_must_be_two_whole_numbers(size: object) -> None:
    with pytest.raises(UserError, match=r"^augment preset 'segmentation': size must be"):
        create_augment({"preset": "segmentation", "size": size}, Preprocess((96, 96)))
