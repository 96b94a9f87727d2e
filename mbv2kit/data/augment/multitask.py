"""Augmentation for several tasks at once: a random zoom and place that keep most of the image in view."""

import math
from typing import Annotated

import numpy as np

from mbv2kit.data.augment.base import PRESETS, Augment, FlipOptions, refuse_crop
from mbv2kit.data.augment.color import ColorOptions
from mbv2kit.data.augment.view import Ratio, View
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.imaging.resizing import needed_scale
from mbv2kit.schema.rules import ORDERED
from mbv2kit.structures import Sample


@PRESETS.register("multitask")
class MultitaskAugment(Augment):
    """A window of random size, shape and place, mirroring and color; label, boxes and mask follow the image.

    The crops of a classifier would cut away objects that boxes need, and those of a detector aim at boxes, which an
    image may not have; this one serves images with any kind of ground truth.

    Args:
        preprocess: Preprocessing of the model; ``resize: crop`` is refused.
        scale: Side of the window over that of the image, from..to, each in 0.1..10: below 1 a part of the image, above
            1 the whole image and a border around it.
        ratio: Factor on width over height of the window, from..to, each in 0.1..10.
        flips: How often the image is mirrored.
        color: How much the colors change.

    Raises:
        UserError: A value is out of range, or ``preprocess`` crops.
    """

    reads_pixels = False

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        scale: Annotated[tuple[Ratio, Ratio], ORDERED] = (0.6, 1.3),
        ratio: Annotated[tuple[Ratio, Ratio], ORDERED] = (0.8, 1.25),
        flips: FlipOptions = FlipOptions(horizontal_flip=0.5),
        color: ColorOptions = ColorOptions(brightness=0.2, contrast=0.2, saturation=0.2),
    ) -> None:
        refuse_crop(preprocess)
        super().__init__(preprocess, flips=flips, color=color)
        self._scale = scale
        self._ratio = ratio

    def most_reduced(self, height: int, width: int) -> int:
        """Returns how far the smallest and narrowest window may be reduced."""
        least = self._scale[0] / math.sqrt(max(self._ratio[1], 1 / self._ratio[0]))
        return needed_scale((int(least * height), int(least * width)), self.size)

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns the view of a window that lies within the image, or around it where it is larger."""
        scale = rng.uniform(*np.log(self._scale))
        stretch = rng.uniform(*np.log(self._ratio)) / 2
        corner, sides = [], []
        for side, power in zip(sample.image.shape[:2], (scale - stretch, scale + stretch), strict=True):
            window = max(1, round(side * float(np.exp(power))))
            low, high = sorted((0, side - window))
            sides.append(window)
            corner.append(int(rng.integers(low, high + 1)))
        (y, x), (height, width) = corner, sides
        content = self.preprocess.content(height, width)
        return View.through((x, y, x + width, y + height), sample.image.shape[:2], content)
