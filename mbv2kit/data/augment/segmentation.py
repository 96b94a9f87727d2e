"""Augmentation for segmentation: random scale and crop, as DeepLab trains (Chen et al. 2017, section 4.1)."""

import math
from typing import Annotated

import numpy as np

from mbv2kit.data.augment.base import PRESETS, Augment, FlipOptions, refuse_crop
from mbv2kit.data.augment.color import ColorOptions
from mbv2kit.data.augment.view import Ratio, View
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.imaging.resizing import needed_scale
from mbv2kit.schema.rules import ORDERED, Size, between
from mbv2kit.structures import Sample


@PRESETS.register("segmentation")
class SegmentationAugment(Augment):
    """Random scale, crop of the input's size, mirroring and color.

    Scale 1 is the size of the image after preprocessing, so that objects have the same size in training and evaluation;
    with ``pad`` it is the original size unless the image is larger than the input. If the scaled image is smaller than
    the crop, the right and the bottom are filled as in preprocessing, and the mask is 255 there.

    DeepLabv3, which the MobileNetV2 paper follows (section 6.3), changes no colors; small changes help if there are few
    images.

    Args:
        preprocess: Preprocessing of the model; ``resize: crop`` is refused.
        size: Height and width of the training images; null takes those of the model's input.
        scale: Range of the random scale, from..to, each in 0.1..10.
        scale_step: Distance between scales, counted from the smallest; 0 allows any scale in the range.
        flips: How often the image is mirrored.
        color: How much the colors change.

    Raises:
        UserError: A value is out of range, or ``preprocess`` crops.
    """

    needs = "mask"
    reads_pixels = False

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        size: Size | None = None,
        scale: Annotated[tuple[Ratio, Ratio], ORDERED] = (0.5, 2.0),
        scale_step: Annotated[float, between(0, 10)] = 0.25,
        flips: FlipOptions = FlipOptions(horizontal_flip=0.5),
        color: ColorOptions = ColorOptions(brightness=0.2, contrast=0.2, saturation=0.2),
    ) -> None:
        refuse_crop(preprocess)
        super().__init__(preprocess, size=size, flips=flips, color=color)
        self._scale = scale
        self._scale_step = scale_step

    def most_reduced(self, height: int, width: int) -> int:
        """Returns how far the image may be reduced that is shown at the largest scale."""
        content = self.preprocess.content(height, width)
        return needed_scale((height, width), [math.ceil(side * self._scale[1]) for side in content])

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns a window of the input's size on the scaled image."""
        image = sample.image.shape[:2]
        scale = self._draw_scale(rng)
        corner, sides = [], []
        for side, placed, target in zip(image, self.preprocess.content(*image), self.size, strict=True):
            # The window is in pixels of the original image: scaling and cropping become one resize.
            window = max(1, round(target * side / (placed * scale)))
            sides.append(window)
            corner.append(int(rng.integers(max(0, side - window) + 1)))
        (y, x), (height, width) = corner, sides
        return View.through((x, y, x + width, y + height), image, self.size)

    def _draw_scale(self, rng: np.random.Generator) -> float:
        low, high = self._scale
        if self._scale_step == 0:
            return float(rng.uniform(low, high))
        # The small number makes up for rounding, so that the end of the range is reached.
        steps = int((high - low) / self._scale_step + 1e-6)
        return low + self._scale_step * int(rng.integers(steps + 1))
