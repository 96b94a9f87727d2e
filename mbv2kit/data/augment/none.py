"""No randomness: a sample as evaluation and inference see it."""

from dataclasses import replace

import numpy as np

from mbv2kit.data.augment.base import PRESETS, Augment, refuse_crop
from mbv2kit.data.augment.view import View
from mbv2kit.imaging.preprocess import InputRule
from mbv2kit.structures import Sample


@PRESETS.register("none")
class NoAugment(Augment):
    """Shows each picture exactly as the model's input rule does, and its boxes and mask to match.

    Args:
        input_rule: How the model wants its pictures.

    Raises:
        UserError: On a call, for boxes or a mask under the rule ``crop``.
    """

    def __init__(self, input_rule: InputRule) -> None:
        # Fewer arguments than the base class has: with a flip it would be another preset.
        super().__init__(input_rule)

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns the whole picture, placed as the rule places it."""
        height, width = sample.image.shape[:2]
        return View.through((0, 0, width, height), (height, width), self.input_rule.content(height, width))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Returns a new sample whose image equals ``input_rule(sample.image)``; ``rng`` has no influence."""
        if self.input_rule.resize != "crop":
            return super().__call__(sample, rng)
        if sample.boxes is not None or sample.mask is not None:
            refuse_crop(self.input_rule)
        return replace(sample, image=self.input_rule(sample.image)[0])
