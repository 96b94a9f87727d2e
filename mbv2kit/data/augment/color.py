"""Random brightness, contrast, saturation and hue.

The changes are those of torchvision and albumentations. Most are a sum of the three colors and a constant, which OpenCV
computes for a whole image in one pass.
"""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray

from mbv2kit.schema.rules import Share, between
from mbv2kit.structures import Image

# What red, green and blue add to the brightness of a pixel (ITU-R BT.601), and a constant.
_GRAY = np.array([0.299, 0.587, 0.114, 0])
_SAME = np.eye(3, 4)


@dataclass(frozen=True, slots=True)
class ColorOptions:
    """How much the colors of an image change at random.

    Attributes:
        brightness: Brightness is multiplied by a factor drawn from 1 ± this, 0..1.
        contrast: Contrast is multiplied by a factor drawn from 1 ± this, 0..1.
        saturation: Saturation is multiplied by a factor drawn from 1 ± this, 0..1.
        hue: Hue turns on the color circle by a fraction drawn from ± this, 0..0.5. Values above 0 cost a tenth of a
            millisecond per image, and do harm if color distinguishes classes.
    """

    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, between(0, 0.5)] = 0.0


class ColorJitter:
    """Changes colors by random amounts, in random order."""

    def __init__(self, options: ColorOptions) -> None:
        changes = [
            (change_brightness, options.brightness),
            (change_contrast, options.contrast),
            (change_saturation, options.saturation),
            (turn_hue, options.hue),
        ]
        self._changes = [(change, strength) for change, strength in changes if strength > 0]

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """Returns the image, ``(H, W, 3)`` uint8, in other colors; if all options are 0, the image itself."""
        for place in rng.permutation(len(self._changes)):
            change, strength = self._changes[place]
            image = change(image, rng.uniform(-strength, strength))
        return image


def change_brightness(image: Image, amount: float) -> Image:
    """Multiplies every pixel by ``1 + amount``."""
    return _mix(image, (1 + amount) * _SAME)


def change_contrast(image: Image, amount: float) -> Image:
    """Multiplies the distance of every pixel from the mean gray of the image by ``1 + amount``."""
    colors = (1 + amount) * _SAME
    # OpenCV's fourth mean is 0.
    colors[:, 3] = -amount * float(_GRAY @ cv2.mean(image))
    return _mix(image, colors)


def change_saturation(image: Image, amount: float) -> Image:
    """Multiplies the distance of every pixel from its own gray by ``1 + amount``."""
    return _mix(image, (1 + amount) * _SAME - amount * _GRAY)


def turn_hue(image: Image, amount: float) -> Image:
    """Turns every color on the color circle of HSV by a fraction of it."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # A full turn is 256, so that bytes begin anew where the circle does.
    hsv[..., 0] += np.uint8(round(256 * amount) % 256)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), dtype=np.uint8)


def _mix(image: Image, colors: NDArray[np.float64]) -> Image:
    """Returns ``colors @ (red, green, blue, 1)`` of every pixel, rounded and clipped."""
    return np.asarray(cv2.transform(image, colors), dtype=np.uint8)
