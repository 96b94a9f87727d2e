"""No randomness: a sample as evaluation and inference see it."""

from dataclasses import replace

import numpy as np

from mbv2kit.data.augment.base import PRESETS, Augment, refuse_crop
from mbv2kit.data.augment.view import View
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.structures import Sample


@PRESETS.register("none")
class NoAugment(Augment):
    """Shows each image exactly as the model's input rule does, and its boxes and mask to match.

    Args:
        input_rule: How the model wants its images.

    Raises:
        UserError: On a call, for boxes or a mask under the rule ``crop``.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        # Fewer arguments than the base class has: with a flip it would be another preset.
        super().__init__(preprocess)

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns the whole image, placed as the rule places it."""
        height, width = sample.image.shape[:2]
        return View.through((0, 0, width, height), (height, width), self.preprocess.content(height, width))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Returns a new sample whose image equals ``input_rule(sample.image)``; ``rng`` has no influence."""
        if self.preprocess.resize != "crop":
            return super().__call__(sample, rng)
        if sample.boxes is not None or sample.mask is not None:
            refuse_crop(self.preprocess)
        return replace(sample, image=self.preprocess(sample.image)[0])
