"""All augmentation presets: size, ground truth, randomness and options of each."""

import os
import pickle
import random
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv2kit.data.augment import PRESETS, Augment, create_augment
from mbv2kit.data.augment.color import ColorJitter, ColorOptions
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess, Resize
from mbv2kit.structures import IGNORE, Image, Sample

PREPROCESS = Preprocess((96, 128))
RANDOM_PRESETS = ["classification", "detection", "segmentation"]


def make_image(height: int = 120, width: int = 160, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_sample(height: int = 120, width: int = 160) -> Sample:
    """A sample with every field, so that any preset can take it."""
    generator = np.random.default_rng(1)
    corners = generator.uniform(0, 0.7, (5, 2)) * [width, height]
    boxes = np.concatenate([corners, corners + generator.uniform(0.1, 0.3, (5, 2)) * [width, height]], axis=1)
    return Sample(
        image=make_image(height, width),
        image_id="some/image.jpg",
        label=3,
        boxes=boxes.astype(np.float32),
        labels=np.arange(5),
        crowd=np.array([False, False, True, False, True]),
        mask=generator.integers(0, 4, (height, width), dtype=np.uint8),
    )


def build(preset: str, preprocess: Preprocess = PREPROCESS, **options: Any) -> Augment:
    return create_augment({"preset": preset, **options}, preprocess)


def same(a: Sample, b: Sample) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Sample))


# ------------------------------------------------------------------------------------------------ every preset


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
@pytest.mark.parametrize("hue", [0.0, 0.1])
def test_equal_generators_give_equal_samples_and_others_do_not(preset: str, hue: float) -> None:
    sample = make_sample()
    augment, twin = build(preset, hue=hue), build(preset, hue=hue)
    augment(sample, np.random.default_rng(99))  # earlier samples must not matter
    for seed in range(5):
        one = augment(sample, np.random.default_rng(seed))
        assert same(one, twin(sample, np.random.default_rng(seed)))
        assert not same(one, augment(sample, np.random.default_rng(seed + 100)))


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
def test_global_random_state_is_neither_read_nor_changed(preset: str) -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    one = build(preset)(make_sample(), np.random.default_rng(5))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    random.seed(2)
    assert same(one, build(preset)(make_sample(), np.random.default_rng(5)))


@pytest.mark.parametrize("preset", PRESETS.names())
@given(
    image=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resize=st.sampled_from(["stretch", "letterbox", "pad"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_any_image_becomes_a_valid_sample_of_the_input_size(
    preset: str, image: tuple[int, int], size: tuple[int, int], resize: Resize, seed: int
) -> None:
    result = build(preset, Preprocess(size, resize))(make_sample(*image), np.random.default_rng(seed))
    assert result.image.shape == (*size, 3)
    assert result.image.flags.c_contiguous
    assert result.mask is not None
    assert result.mask.shape == size
    assert set(np.unique(result.mask)) <= {0, 1, 2, 3, IGNORE}
    assert result.boxes is not None
    assert result.labels is not None
    assert result.boxes.dtype == np.float32
    assert result.labels.shape == (len(result.boxes),)
    sides = result.boxes[:, 2:] - result.boxes[:, :2]
    assert (sides >= 0.999).all()
    assert (result.boxes >= 0).all()
    assert (result.boxes <= [size[1], size[0], size[1], size[0]]).all()
    assert (result.image_id, result.label) == ("some/image.jpg", 3)


@pytest.mark.parametrize("preset", PRESETS.names())
def test_the_given_sample_is_not_changed(preset: str) -> None:
    sample = make_sample(96, 128)
    augment = build(preset)
    result = augment(sample, np.random.default_rng(0))
    result.image[:] = 0
    assert same(sample, make_sample(96, 128))


@pytest.mark.parametrize("preset", PRESETS.names())
def test_a_preset_can_be_sent_to_worker_processes(preset: str) -> None:
    augment = build(preset)
    copy = pickle.loads(pickle.dumps(augment))
    assert same(copy(make_sample(), np.random.default_rng(3)), augment(make_sample(), np.random.default_rng(3)))


@pytest.mark.parametrize(
    ("preset", "missing"), [("classification", "label"), ("detection", "boxes"), ("segmentation", "mask")]
)
def test_a_sample_without_the_needed_field_is_refused(preset: str, missing: str) -> None:
    bare = Sample(image=make_image(), image_id="bare.jpg")
    with pytest.raises(ValueError, match=f"'{missing}'; bare.jpg has none"):
        build(preset)(bare, np.random.default_rng(0))


@pytest.mark.parametrize("preset", RANDOM_PRESETS)
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_image_boxes_and_mask_stay_together(preset: str, resize: Resize) -> None:
    # One bright object on black, which must stay in the same place in image, mask and box.
    image = np.zeros((120, 160, 3), dtype=np.uint8)
    image[40:80, 50:110] = 250
    sample = Sample(
        image=image,
        image_id="object",
        label=0,
        boxes=np.array([[50, 40, 110, 80]], dtype=np.float32),
        labels=np.zeros(1, dtype=np.int64),
        mask=(image[:, :, 0] > 0).astype(np.uint8),
    )
    augment = build(preset, Preprocess((96, 128), resize, fill=0))
    objects = 0
    for seed in range(40):
        result = augment(sample, np.random.default_rng(seed))
        assert result.boxes is not None
        assert result.mask is not None
        if len(result.boxes) == 0:
            continue
        objects += 1
        for pixels in (result.image[:, :, 0] > 60, result.mask == 1):
            rows, columns = np.nonzero(pixels)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert result.boxes[0] == pytest.approx(found, abs=1.5)
    assert objects > 20


# ------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "augment.preset must be one of classification, detection, multitask, none, segmentation, got None"),
        ({"preset": "detecton"}, "no augment preset 'detecton'. Did you mean 'detection'"),
        ({"preset": "detection", "expand_maks": 2}, "no option 'expand_maks'. Did you mean 'expand_max'"),
        ({"preset": "none", "horizontal_flip": 0.5}, "augment preset 'none' has no option 'horizontal_flip'"),
        (
            {"preset": "detection", "expand_max": 0.5},
            "augment preset 'detection': expand_max must be a number from 1 to 10, got 0.5",
        ),
        (
            {"preset": "detection", "crop_min_iou": []},
            "augment preset 'detection': crop_min_iou must be a list, each a number from 0 to 1, at least one of them, "
            "got [].",
        ),
        (
            {"preset": "detection", "crop_min_iou": 0.5},
            "augment preset 'detection': crop_min_iou must be a list, each a number from 0 to 1",
        ),
        (
            {"preset": "classification", "scale": [1.0, 0.2]},
            "scale must be a list of 2, each a number from 0.01 to 1, the smaller first",
        ),
        (
            {"preset": "classification", "scale": [0.2]},
            "scale must be a list of 2, each a number from 0.01 to 1, the smaller first",
        ),
        (
            {"preset": "classification", "ratio": [0, 2]},
            "augment preset 'classification': ratio must be a list of 2, each a number from 0.1 to 10",
        ),
        (
            {"preset": "classification", "hue": 0.6},
            "hue must be a number from 0 to 0.5",
        ),
        (
            {"preset": "classification", "horizontal_flip": True},
            "augment preset 'classification': horizontal_flip must be a number from 0 to 1",
        ),
        (
            {"preset": "segmentation", "scale": "big"},
            "scale must be a list of 2, each a number from 0.1 to 10, the smaller first, got 'big'",
        ),
        (
            {"preset": "segmentation", "brightness": None},
            "augment preset 'segmentation': brightness must be a number from 0 to 1, got null",
        ),
    ],
)
def test_mistakes_in_the_options_are_reported(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        create_augment(config, PREPROCESS)
    assert message in str(error.value)


@pytest.mark.parametrize("preset", ["detection", "segmentation"])
def test_center_crops_are_refused_if_they_would_cut_objects_away(preset: str) -> None:
    with pytest.raises(UserError, match="'crop' cuts away"):
        build(preset, Preprocess((96, 96), "crop"))


# ------------------------------------------------------------------------------------------------ color


def test_color_strengths_bound_the_change() -> None:
    gray = np.full((4, 4, 3), 100, dtype=np.uint8)
    jitter = ColorJitter(ColorOptions(brightness=0.2))
    values = [int(jitter(gray, np.random.default_rng(seed))[0, 0, 0]) for seed in range(200)]
    assert min(values) in range(80, 85)
    assert max(values) in range(116, 121)


def test_without_color_albumentations_is_not_even_imported() -> None:
    code = (
        "import sys\n"
        "from mbv2kit.data.augment import create_augment\n"
        "from mbv2kit.imaging.preprocess import Preprocess\n"
        "create_augment({'preset': 'none'}, Preprocess((8, 8)))\n"
        "assert 'albumentations' not in sys.modules\n"
        "create_augment({'preset': 'classification'}, Preprocess((8, 8)))\n"
        "import os\n"
        "assert 'albumentations' in sys.modules and os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[2])
