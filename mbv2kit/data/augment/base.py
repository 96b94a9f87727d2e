"""The base of all presets: a preset chooses a view of the image; image, boxes and mask follow it.

All randomness comes from the generator that the caller passes, so that a sample is a pure function of the seed, the
epoch and the index, in any process.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mbv2kit.data.augment.color import ColorJitter, ColorOptions
from mbv2kit.data.augment.view import View, centers_inside
from mbv2kit.data.cleaning import clean_boxes
from mbv2kit.errors import UserError
from mbv2kit.imaging.parts import KnownParts, Parts
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.imaging.resizing import resize_mask
from mbv2kit.registry import Registry
from mbv2kit.schema.rules import Share, Size
from mbv2kit.structures import IGNORE, Sample


@dataclass(frozen=True, slots=True)
class FlipOptions:
    """How often an image is mirrored.

    Attributes:
        horizontal_flip: Probability of swapping left and right, 0..1; 0 if the two differ in meaning, as in digits,
            letters and signs.
        vertical_flip: Probability of turning the image upside down, 0..1; 0.5 suits views from above or through a
            microscope.

    """

    horizontal_flip: Share = 0.0
    vertical_flip: Share = 0.0


class Augment(ABC):
    """Turns a sample of any size into a training sample of exactly one size, usually that of the network's input.

    Every field of the sample follows the image. A box stays if its center is in view; it is clipped to the visible part
    of the image, and dropped if a side becomes shorter than a pixel. Outside the image, a mask is 255.

    Args:
        preprocess: Preprocessing of the model.
        size: Height and width of the training images; None for those of ``preprocess``.
        flips: How often the image is mirrored.
        color: How much the colors change.

    Attributes:
        needs: The field that the preset needs in every sample.
        reads_pixels: Whether the preset looks at the pixels of a sample before it has chosen the view. Training decodes
            an image only as far as its view needs where this is False.
    """

    needs: Literal["label", "boxes", "mask"] | None = None
    reads_pixels: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What a preset inherits holds for what it inherits: one with a view of its own says itself how it chooses.
        if {"__call__", "choose_view"} & vars(cls).keys() and "reads_pixels" not in vars(cls):
            cls.reads_pixels = True

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        size: Size | None = None,
        flips: FlipOptions = FlipOptions(),
        color: ColorOptions = ColorOptions(),
    ) -> None:
        self.preprocess = preprocess
        self.size = preprocess.size if size is None else (size[0], size[1])
        self._flips = flips
        self._jitter = ColorJitter(color)

    @abstractmethod
    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns the part of the image to take and its place in the input, without mirroring."""

    def most_reduced(self, height: int, width: int) -> int:
        """Returns the side of the blocks, 1, 2, 4 or 8, whose averages suffice for every view of an image.

        Args:
            height: Height of the image in pixels.
            width: Its width.
        """
        return 1

    def __call__(self, sample: Sample, rng: np.random.Generator, parts: Parts | None = None) -> Sample:
        """Returns a new sample with an image ``(*size, 3)``; the given sample is not changed.

        Args:
            sample: A sample of any size.
            rng: Where all randomness comes from.
            parts: Where the pixels come from; None for the image of the sample.

        Raises:
            ValueError: The sample lacks the field that the preset needs.
        """
        if self.needs is not None and getattr(sample, self.needs) is None:
            raise ValueError(f"{type(self).__name__} needs samples with '{self.needs}'; {sample.image_id} has none.")
        view = replace(
            self.choose_view(sample, rng),
            mirror_x=rng.random() < self._flips.horizontal_flip,
            mirror_y=rng.random() < self._flips.vertical_flip,
        )
        parts = KnownParts(sample.image) if parts is None else parts
        part = self._jitter(view.mirror(parts.cut(view.source, *view.size)), rng)
        image = view.paste(part, np.full((*self.size, 3), self.preprocess.fill, dtype=np.uint8))
        mask = sample.mask
        if mask is not None:
            mask = view.paste(view.cut(mask, resize_mask), np.full(self.size, IGNORE, dtype=np.uint8))
        augmented = replace(sample, image=image, mask=mask, annotated=None)
        return self._with_boxes_in(view, augmented) if sample.boxes is not None else augmented

    def _with_boxes_in(self, view: View, sample: Sample) -> Sample:
        """Returns the sample with its boxes converted from the image to the view."""
        assert sample.boxes is not None
        assert sample.labels is not None
        assert sample.crowd is not None
        inside = centers_inside(sample.boxes, np.array([view.source]))[0]
        left, top, right, bottom = view.target
        corner = np.array([left, top, left, top], dtype=np.float32)
        boxes, keep = clean_boxes(view.convert(sample.boxes[inside]) - corner, bottom - top, right - left)
        return replace(
            sample,
            boxes=boxes[keep] + corner,
            labels=sample.labels[inside][keep],
            crowd=sample.crowd[inside][keep],
        )


PRESETS: Registry[Augment] = Registry("augment preset", "mbv2kit.data.augment", group="augment", name_key="preset")


def create_augment(config: Mapping[str, Any], preprocess: Preprocess) -> Augment:
    """Builds the preset that ``config`` names as ``preset``; its other keys are arguments of the constructor.

    Raises:
        UserError: The preset is missing or unknown, or a key is unknown or out of range.
    """
    options = {str(key): value for key, value in config.items()}
    name = options.pop("preset", None)
    if not isinstance(name, str):
        raise UserError(f"augment.preset must be one of {', '.join(PRESETS.names())}, got {name!r}.")
    return PRESETS.create(name, preprocess, **options)


def refuse_crop(preprocess: Preprocess) -> None:
    """Raises :class:`UserError` if preprocessing crops, which may cut away objects; only classification allows it."""
    if preprocess.resize == "crop":
        raise UserError(
            "resize 'crop' cuts away part of the image and serves classification only; "
            "use stretch, letterbox or pad for boxes and masks."
        )
