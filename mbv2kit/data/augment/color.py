"""Random brightness, contrast, saturation and hue; the only module that uses albumentations."""

import os
import random
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np

from mbv2kit.schema.rules import Share, between
from mbv2kit.structures import Image

# On import, albumentations looks for a newer version on the network; training must not depend on that.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@dataclass(frozen=True, slots=True)
class ColorOptions:
    """How much the colors of an image change at random.

    Attributes:
        brightness: Brightness is multiplied by a factor drawn from 1 ± this, 0..1.
        contrast: Contrast is multiplied by a factor drawn from 1 ± this, 0..1.
        saturation: Saturation is multiplied by a factor drawn from 1 ± this, 0..1.
        hue: Hue turns on the color circle by a fraction drawn from ± this, 0..0.5. Values above 0 cost about half a
            millisecond per image, and do harm if color distinguishes classes.
    """

    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, between(0, 0.5)] = 0.0


class ColorJitter:
    """Changes colors by random amounts, in random order."""

    def __init__(self, options: ColorOptions) -> None:
        self._jitter: Any = None
        if options != ColorOptions():
            # The import takes about a second, which evaluation and presets without colors save.
            from albumentations import ColorJitter

            self._jitter = ColorJitter(**{key: float(strength) for key, strength in asdict(options).items()}, p=1.0)

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """Returns the image, ``(H, W, 3)`` uint8, in other colors; if all options are 0, the image itself."""
        if self._jitter is None:
            return image
        # Albumentations has two generators of its own; the caller's replaces both for each image.
        self._jitter.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        return np.asarray(self._jitter(image=image)["image"], dtype=np.uint8)
