"""Random brightness, contrast, saturation and hue; the one place that knows albumentations."""

import os
import random
from typing import Any

import numpy as np

from mbv2kit.data.augment.checks import number_within
from mbv2kit.structures import Image

# On import albumentations asks the network for a newer version of itself; training must not depend on that.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


class ColorJitter:
    """Changes colors by random amounts, in random order; the strengths are those of the presets' keys.

    Args:
        brightness: Factor drawn from 1 ± this, 0..1.
        contrast: Factor drawn from 1 ± this, 0..1.
        saturation: Factor drawn from 1 ± this, 0..1.
        hue: Turn of the color circle drawn from ± this, 0..0.5 (half a circle either way).

    Raises:
        UserError: A strength is outside its range.
    """

    def __init__(self, *, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        strengths = {
            "brightness": number_within("brightness", brightness, 0, 1),
            "contrast": number_within("contrast", contrast, 0, 1),
            "saturation": number_within("saturation", saturation, 0, 1),
            "hue": number_within("hue", hue, 0, 0.5),
        }
        self._jitter: Any = None
        if any(strengths.values()):
            # It takes about a second to import, which evaluation and colorless presets can do without.
            from albumentations import ColorJitter

            self._jitter = ColorJitter(**strengths, p=1.0)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """Returns the image, ``(H, W, 3)`` uint8, in other colors; with all strengths 0 the image itself."""
        if self._jitter is None:
            return image
        # Albumentations draws from two generators of its own; both are replaced, for each image, by the caller's.
        self._jitter.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        return np.asarray(self._jitter(image=image)["image"], dtype=np.uint8)
