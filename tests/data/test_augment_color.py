import math

import albumentations
import numpy as np
import pytest
from albumentations.augmentations.pixel import functional as reference

from mbv2kit.data.augment.color import (
    ColorJitter,
    ColorOptions,
    change_brightness,
    change_contrast,
    change_saturation,
    turn_hue,
)
from mbv2kit.structures import Image
from tests.imaging.drawn import scene

AMOUNTS = (-1.0, -0.5, -0.2, 0.0, 0.1, 0.5, 1.0)
OPTIONS = ColorOptions(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.1)


def difference(image: Image, other: Image) -> np.ndarray:
    return np.abs(image.astype(int) - other)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_each_change_is_that_of_albumentations(amount: float) -> None:
    image = scene(97, 131)
    for ours, theirs in (
        (change_brightness, reference.adjust_brightness_torchvision),
        (change_contrast, reference.adjust_contrast_torchvision),
        (change_saturation, reference.adjust_saturation_torchvision),
    ):
        # It cuts off fractions where these are rounded here.
        assert difference(ours(image, amount), theirs(image, 1 + amount)).max() <= 1


@pytest.mark.parametrize("amount", [-0.5, -0.13, 0.0, 0.1, 0.25, 0.5])
def test_hue_turns_as_that_of_albumentations(amount: float) -> None:
    image = scene(97, 131)
    # A full turn has 256 steps here and 180 there.
    assert difference(turn_hue(image, amount), reference.adjust_hue_torchvision(image, amount)).mean() < 1.5
    third = turn_hue(np.full((2, 2, 3), (200, 0, 0), dtype=np.uint8), 1 / 3)
    np.testing.assert_allclose(third.astype(int), np.broadcast_to((0, 200, 0), (2, 2, 3)), atol=5)


def test_images_without_color_keep_their_gray() -> None:
    image = np.repeat(scene(40, 50)[..., :1], 3, axis=2)
    for amount in AMOUNTS:
        assert difference(change_saturation(image, amount), image).max() <= 1
        assert np.array_equal(turn_hue(image, amount / 2), image)


def test_strengths_bound_the_change() -> None:
    gray = np.full((4, 4, 3), 100, dtype=np.uint8)
    jitter = ColorJitter(ColorOptions(brightness=0.2))
    values = [int(jitter(gray, np.random.default_rng(seed))[0, 0, 0]) for seed in range(200)]
    assert min(values) in range(80, 85)
    assert max(values) in range(116, 121)
    assert np.mean(values) == pytest.approx(100, abs=4 * 40 / math.sqrt(12 * 200))


def test_no_strength_leaves_the_image_itself() -> None:
    image = scene(10, 10)
    assert ColorJitter(ColorOptions())(image, np.random.default_rng(0)) is image


def test_changed_images_are_distributed_as_those_of_albumentations() -> None:
    image = scene(24, 32)
    ours, rng = ColorJitter(OPTIONS), np.random.default_rng(0)
    theirs = albumentations.ColorJitter(
        brightness=OPTIONS.brightness,
        contrast=OPTIONS.contrast,
        saturation=OPTIONS.saturation,
        hue=OPTIONS.hue,
        p=1.0,
    )
    theirs.set_random_seed(1)
    count = 3000
    statistics = [
        # Mean and spread of each color: what the four changes change.
        np.array([[*changed.mean(axis=(0, 1)), *changed.std(axis=(0, 1))] for changed in images])
        for images in (
            [ours(image, rng) for _ in range(count)],
            [theirs(image=image)["image"] for _ in range(count)],
        )
    ]
    one, other = statistics
    error = np.sqrt((one.var(axis=0) + other.var(axis=0)) / count)
    # Half a gray level is what cutting off fractions takes away.
    assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 4 * error + 1).all()
    np.testing.assert_allclose(one.std(axis=0), other.std(axis=0), rtol=0.08)
