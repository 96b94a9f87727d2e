"""Augmentation for classification: a random crop of the image, resized to the input ("Inception crop")."""

import math
from typing import Annotated

import numpy as np

from mbv2kit.data.augment.base import PRESETS, Augment, FlipOptions
from mbv2kit.data.augment.color import ColorOptions
from mbv2kit.data.augment.view import Part, Ratio, View
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.imaging.resizing import needed_scale
from mbv2kit.schema.rules import ORDERED, Size
from mbv2kit.structures import Sample

_ATTEMPTS = 10


@PRESETS.register("classification")
class ClassificationAugment(Augment):
    """Random resized crop, mirroring and color, as in the training of MobileNetV1 and V2 on ImageNet.

    Crops are larger than the usual 0.08 to 1 of the area: small networks rarely overfit, so MobileNetV1's authors limit
    how small a crop may be (Howard et al. 2017, section 3.2).

    Args:
        preprocess: Preprocessing of the model; the crop fills ``size`` whatever its ``resize``.
        size: Height and width of the training images; null takes those of the model's input.
        scale: Area of the crop as a fraction of the image's, from..to, each in 0.01..1.
        ratio: Width over height of the crop, from..to, each in 0.1..10.
        flips: How often the image is mirrored.
        color: How much the colors change.

    Raises:
        UserError: A value is out of range.
    """

    needs = "label"
    reads_pixels = False

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        size: Size | None = None,
        scale: Annotated[tuple[Part, Part], ORDERED] = (0.25, 1.0),
        ratio: Annotated[tuple[Ratio, Ratio], ORDERED] = (0.75, 1.333),
        flips: FlipOptions = FlipOptions(horizontal_flip=0.5),
        color: ColorOptions = ColorOptions(brightness=0.2, contrast=0.2, saturation=0.2),
    ) -> None:
        super().__init__(preprocess, size=size, flips=flips, color=color)
        self._scale = scale
        self._ratio = ratio

    def most_reduced(self, height: int, width: int) -> int:
        """Returns how far the smallest and narrowest crop may be reduced."""
        area = self._scale[0] * height * width
        least_h = min(height, width / self._ratio[0], math.sqrt(area / self._ratio[1]))
        least_w = min(width, height * self._ratio[1], math.sqrt(area * self._ratio[0]))
        return needed_scale((int(least_h), int(least_w)), self.size)

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns a random crop of the image, or its center if no crop of an allowed shape fits."""
        height, width = sample.image.shape[:2]
        area = rng.uniform(*self._scale, size=_ATTEMPTS) * height * width
        ratio = np.exp(rng.uniform(math.log(self._ratio[0]), math.log(self._ratio[1]), size=_ATTEMPTS))
        widths = np.maximum(1, np.rint(np.sqrt(area * ratio))).astype(int)
        heights = np.maximum(1, np.rint(np.sqrt(area / ratio))).astype(int)
        fits = (widths <= width) & (heights <= height)
        if fits.any():
            first = int(fits.argmax())
            cut_w, cut_h = int(widths[first]), int(heights[first])
            x, y = int(rng.integers(width - cut_w + 1)), int(rng.integers(height - cut_h + 1))
        else:
            cut_w = min(width, max(1, round(height * self._ratio[1])))
            cut_h = min(height, max(1, round(width / self._ratio[0])))
            x, y = (width - cut_w) // 2, (height - cut_h) // 2
        return View.through((x, y, x + cut_w, y + cut_h), (height, width), self.size)
