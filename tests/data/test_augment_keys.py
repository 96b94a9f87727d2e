"""Every key of every augmentation changes what training is shown."""

from typing import Any

import numpy as np
import pytest

from mbv2kit.data.augment import PRESETS, create_augment
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import Sample

# A value of each key that is not its default; detection crops only where it must reach an IoU.
OTHERS: dict[str, Any] = {
    "size": [64, 64],
    "scale": [0.5, 0.5],
    "scale_step": 0.0,
    "ratio": [2.0, 2.0],
    "horizontal_flip": 1.0,
    "vertical_flip": 1.0,
    "brightness": 0.9,
    "contrast": 0.9,
    "saturation": 0.9,
    "hue": 0.5,
    "expand_probability": 0.0,
    "expand_max": 4.0,
    "crop_probability": 0.0,
    "crop_min_iou": [0.9],
    "crop_scale": [0.9, 1.0],
    "crop_ratio": [1.0, 1.0],
}
KEYS = [(preset, key) for preset in PRESETS.names() for key in PRESETS.keys(preset) if key != "preset"]


def samples(preset: str, **options: Any) -> list[Sample]:
    """The same image, augmented by eight random numbers."""
    generator = np.random.default_rng(0)
    original = Sample(
        image=generator.integers(0, 256, (120, 160, 3), dtype=np.uint8),
        image_id="image",
        label=0,
        boxes=np.array([[20, 30, 90, 100]], np.float32),
        labels=np.array([0]),
        crowd=np.array([False]),
        mask=generator.integers(0, 4, (120, 160), dtype=np.uint8),
    )
    augment = create_augment({"preset": preset, **options}, Preprocess((96, 128)))
    return [augment(original, np.random.default_rng(seed)) for seed in range(8)]


@pytest.mark.shows("augment.preset")
def test_every_preset_gives_samples_of_its_own() -> None:
    firsts = [samples(preset)[0].image.tobytes() for preset in PRESETS.names()]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.shows(*sorted({f"augment.{key}" for _, key in KEYS}))
@pytest.mark.parametrize(("preset", "key"), KEYS)
def test_a_key_changes_the_samples(preset: str, key: str) -> None:
    pairs = zip(samples(preset), samples(preset, **{key: OTHERS[key]}), strict=True)
    assert any(not np.array_equal(a.image, b.image) for a, b in pairs)
