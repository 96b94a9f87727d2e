"""Augmentation for detection: the expansion and the IoU crop of SSD (Liu et al. 2016, sections 2.2 and 3.6).

Both only choose a window on the image, which may extend beyond it; the pixels are cut and resized once.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.augment.base import PRESETS, Augment, FlipOptions, refuse_crop
from mbv2kit.data.augment.color import ColorOptions
from mbv2kit.data.augment.view import Part, Ratio, View, centers_inside
from mbv2kit.imaging.parts import Rectangle
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.imaging.resizing import needed_scale
from mbv2kit.schema.rules import FILLED, ORDERED, Share, between
from mbv2kit.structures import Boxes, Sample

_ATTEMPTS = 50


@PRESETS.register("detection")
class DetectionAugment(Augment):
    """Expansion, IoU crop, mirroring and color; the window is then preprocessed like an image.

    The published TensorFlow configuration of SSDLite on MobileNetV2 has only the crop and the mirroring:
    ``expand_probability=0`` and no color.

    Args:
        preprocess: Preprocessing of the model; ``resize: crop`` is refused.
        expand_probability: How often the image is placed on a larger canvas, which makes its objects small, 0..1.
        expand_max: Largest side of the canvas over the image's, 1..10; 4 in SSD, which needs long training.
        crop_probability: How often the image is cropped, 0..1; an image without objects is never cropped.
        crop_min_iou: IoU that a crop must have with at least one object, each in 0..1; one is drawn for each image,
            and the others follow in random order if no crop reaches it.
        crop_scale: Side of the crop over the side of the image or canvas, from..to, each in 0.01..1.
        crop_ratio: Width over height of the crop in pixels, from..to, each in 0.1..10.
        flips: How often the image is mirrored.
        color: How much the colors change; SSD has a hue of 0.1.

    Raises:
        UserError: A value is out of range, or ``preprocess`` crops.
    """

    needs = "boxes"
    reads_pixels = False

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        expand_probability: Share = 0.5,
        expand_max: Annotated[float, between(1, 10)] = 2.0,
        crop_probability: Share = 0.85,
        crop_min_iou: Annotated[tuple[Share, ...], FILLED] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        crop_scale: Annotated[tuple[Part, Part], ORDERED] = (0.3, 1.0),
        crop_ratio: Annotated[tuple[Ratio, Ratio], ORDERED] = (0.5, 2.0),
        flips: FlipOptions = FlipOptions(horizontal_flip=0.5),
        color: ColorOptions = ColorOptions(brightness=0.125, contrast=0.5, saturation=0.5),
    ) -> None:
        refuse_crop(preprocess)
        super().__init__(preprocess, flips=flips, color=color)
        self._expand_probability = expand_probability
        self._expand_max = expand_max
        self._crop_probability = crop_probability
        self._crop_min_iou = crop_min_iou
        self._crop_scale = crop_scale
        self._crop_ratio = crop_ratio

    def most_reduced(self, height: int, width: int) -> int:
        """Returns how far the smallest crop may be reduced."""
        least = self._crop_scale[0] if self._crop_probability else 1.0
        return needed_scale((int(least * height), int(least * width)), self.size)

    def choose_view(self, sample: Sample, rng: np.random.Generator) -> View:
        """Returns the view of a window: the image after a possible expansion and a possible crop."""
        assert sample.boxes is not None
        assert sample.crowd is not None
        height, width = sample.image.shape[:2]
        window: Rectangle = (0, 0, width, height)
        # A crop aims at objects, not at crowds, nor at a wrong box whose center is outside the image.
        objects = sample.boxes[~sample.crowd & centers_inside(sample.boxes, np.array([window]))[0]]
        if rng.random() < self._expand_probability:
            window = self._expand(height, width, rng)
        if rng.random() < self._crop_probability and len(objects):
            window = self._crop(window, objects, rng)
        content = self.preprocess.content(window[3] - window[1], window[2] - window[0])
        return View.through(window, (height, width), content)

    def _expand(self, height: int, width: int, rng: np.random.Generator) -> Rectangle:
        ratio = rng.uniform(1.0, self._expand_max)
        canvas_h, canvas_w = round(height * ratio), round(width * ratio)
        x, y = int(rng.integers(canvas_w - width + 1)), int(rng.integers(canvas_h - height + 1))
        return -x, -y, canvas_w - x, canvas_h - y

    def _crop(self, window: Rectangle, boxes: Boxes, rng: np.random.Generator) -> Rectangle:
        for min_iou in rng.permutation(self._crop_min_iou):
            crops = self._random_crops(window, rng)
            hits = centers_inside(boxes, crops) & (_iou(crops, boxes) >= min_iou)
            good = np.flatnonzero(hits.any(axis=1))
            if len(good):
                x1, y1, x2, y2 = crops[good[0]].tolist()
                return x1, y1, x2, y2
        return window

    def _random_crops(self, window: Rectangle, rng: np.random.Generator) -> NDArray[np.int64]:
        """Returns up to ``_ATTEMPTS`` rectangles ``(K, 4)`` within the window that have an allowed ratio."""
        corner = np.array(window[:2])
        sides = np.array(window[2:]) - corner
        cuts = np.maximum(1, np.rint(sides * rng.uniform(*self._crop_scale, size=(_ATTEMPTS, 2)))).astype(np.int64)
        starts = corner + rng.integers(sides - cuts + 1)
        ratios = cuts[:, 0] / cuts[:, 1]
        allowed = (ratios >= self._crop_ratio[0]) & (ratios <= self._crop_ratio[1])
        return np.asarray(np.concatenate([starts, starts + cuts], axis=1)[allowed], dtype=np.int64)


def _iou(windows: NDArray[np.int64], boxes: Boxes) -> NDArray[np.float64]:
    """Returns the ``(W, N)`` intersection over union of windows and boxes; a box without area has 0."""
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    areas = (windows[:, 2:] - windows[:, :2]).prod(axis=1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(overlap / (areas - overlap), dtype=np.float64)
