"""Augmentation for classification: a random part of the image, resized to the input ("Inception crop")."""

import math

import numpy as np

from mbv2kit.data.augment.base import PRESETS, Augment
from mbv2kit.data.augment.checks import range_within
from mbv2kit.data.augment.color import ColorJitter
from mbv2kit.data.augment.view import View
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import Sample

_ATTEMPTS = 10


@PRESETS.register("classification")
class ClassificationAugment(Augment):
    """Random resized crop, mirroring and color, as in the training of MobileNetV1 and V2 on ImageNet.

    Args:
        input_rule: How the model wants its images; the crop fills ``size`` whatever the rule for resizing.
        size: Height and width of the training images; null: those of the model's input.
        scale: Share of the image's area that is cut out, from..to, each in 0..1.
        ratio: Width over height of the cut, from..to.
        horizontal_flip: Probability of a mirrored image, 0..1.
        vertical_flip: Probability of an image upside down, 0..1.
        brightness: Factor drawn from 1 ± this, 0..1; likewise ``contrast`` and ``saturation``.
        contrast: See ``brightness``.
        saturation: See ``brightness``.
        hue: Turn of the color circle drawn from ± this, 0..0.5; not 0 costs about half a millisecond an image.

    Raises:
        UserError: A value is out of range.
    """

    needs = "label"

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        size: tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.25, 1.0),
        ratio: tuple[float, float] = (0.75, 1.333),
        horizontal_flip: float = 0.5,
        vertical_flip: float = 0.0,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.0,
    ) -> None:
        color = ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        super().__init__(
            preprocess, size=size, horizontal_flip=horizontal_flip, vertical_flip=vertical_flip, color=color
        )
        self._scale = range_within("scale", scale, 0.01, 1)
        self._ratio = range_within("ratio", ratio, 0.1, 10)

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns a random part of the image, or its middle where no part of the wanted shape fits."""
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
