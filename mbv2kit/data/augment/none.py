"""No augmentation: a sample as in evaluation and inference."""

from dataclasses import replace

import numpy as np

from mbv2kit.data.augment.base import PRESETS, Augment, refuse_crop
from mbv2kit.data.augment.view import View
from mbv2kit.imaging.parts import Parts
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.imaging.resizing import needed_scale
from mbv2kit.structures import Sample


@PRESETS.register("none")
class NoAugment(Augment):
    """No augmentation: every image exactly as in evaluation, with matching boxes and mask.

    Useful to overfit a few images on purpose, and as a baseline.

    Args:
        preprocess: Preprocessing of the model.

    Raises:
        UserError: On a call with boxes or a mask, if ``preprocess`` crops.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        # Flips and colors of the base class are no options here: this preset changes nothing.
        super().__init__(preprocess)
        self.reads_pixels = preprocess.resize == "crop"

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns the whole image, placed as in preprocessing."""
        height, width = sample.image.shape[:2]
        return View.through((0, 0, width, height), (height, width), self.preprocess.content(height, width))

    def most_reduced(self, height: int, width: int) -> int:
        """Returns how far an image may be reduced that is shown whole."""
        return needed_scale((height, width), self.preprocess.content(height, width))

    def __call__(self, sample: Sample, rng: np.random.Generator, parts: Parts | None = None) -> Sample:
        """Returns a new sample whose image equals that of ``preprocess(sample.image)``; ``rng`` has no influence."""
        if self.preprocess.resize != "crop":
            return super().__call__(sample, rng, parts)
        if sample.boxes is not None or sample.mask is not None:
            refuse_crop(self.preprocess)
        return replace(sample, image=self.preprocess(sample.image)[0])
