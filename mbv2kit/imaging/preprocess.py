"""Converts an image of any size to a network's input, and predictions back to the image; needs no torch."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.images import File, decode, decode_resized
from mbv2kit.imaging.resizing import cut_center, resize_as_tf1, resize_image, resize_mask
from mbv2kit.schema import check_fields
from mbv2kit.schema.rules import Size, between
from mbv2kit.structures import Detections, Image, Input, Prediction, Segmentation

Resize = Literal["stretch", "letterbox", "pad", "crop"]
Interpolation = Literal["smooth", "tf1"]
InputType = Literal["uint8", "float32"]
# If an image would be scaled to more than this many times the input's side, crop scales only its center.
_MOST_SCALED = 16


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies in a network's input: its content fills the top left corner.

    Attributes:
        image: Height and width of the image.
        content: Height and width of the image's content in the network's input.
    """

    image: tuple[int, int]
    content: tuple[int, int]

    def restore(self, prediction: Prediction) -> Prediction:
        """Converts a prediction from input pixels to pixels of the image.

        Boxes are clipped to the image and dropped if nothing is left; masks lose the filled border.
        """
        if isinstance(prediction, Detections):
            height, width = self.image
            y, x = height / self.content[0], width / self.content[1]
            boxes = prediction.boxes * np.array([x, y, x, y], dtype=np.float32)
            boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
            kept = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
            return Detections(boxes[kept], prediction.class_ids[kept], prediction.scores[kept])
        if isinstance(prediction, Segmentation):
            content = prediction.mask[: self.content[0], : self.content[1]]
            return Segmentation(resize_mask(np.ascontiguousarray(content), *self.image))
        return prediction


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an image of any size becomes the network's input; every model carries its own.

    Attributes:
        size: Height and width of the input.
        resize: ``stretch`` scales each side to ``size``, whatever the aspect ratio; ``letterbox`` scales the image to
            fit and fills the rest; ``pad`` does the same but never enlarges; ``crop`` scales the short side to
            ``size / crop_fraction`` and cuts out the center.
        crop_fraction: Fraction of the scaled image's side that ``crop`` keeps, in (0, 1].
        fill: Gray value of the pixels outside the image, 0..255.
        interpolation: ``smooth`` averages the pixels that a smaller image loses; ``tf1`` is the rule of TensorFlow 1,
            for detectors that were trained with it (see :func:`~mbv2kit.imaging.resizing.resize_as_tf1`).
    """

    size: Size
    resize: Resize = "stretch"
    crop_fraction: Annotated[float, between(0.01, 1)] = 0.875
    fill: Annotated[int, between(0, 255)] = 127
    interpolation: Interpolation = "smooth"

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))

    def content(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width that an image takes up in the input; with ``crop`` all of it."""
        if self.resize in ("stretch", "crop"):
            return self.size
        scale = min(self.size[0] / height, self.size[1] / width)
        if self.resize == "pad":
            scale = min(1.0, scale)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width to which the whole image is resized; only ``crop`` cuts from it afterwards."""
        if self.resize != "crop":
            return self.content(height, width)
        scale = max(self.size[0] / height, self.size[1] / width) / self.crop_fraction
        return max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale))

    def kept(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width of the image's center that is resized; all of it but for long, thin images.

        ``crop`` scales by the short side, so an image of 1 x 65,000 pixels would become one of 10 million columns, of
        which a square is kept.
        """
        if self.resize != "crop":
            return height, width
        sides = zip((height, width), self.scaled(height, width), self.size, strict=True)
        rows, columns = (_kept_side(side, scaled, wanted) for side, scaled, wanted in sides)
        return rows, columns

    @property
    def input_type(self) -> InputType:
        """The type of the input's numbers, all in 0..255."""
        return "float32" if self.interpolation == "tf1" else "uint8"

    def __call__(self, image: Image) -> tuple[Input, Placement]:
        """Returns the input, ``(*size, 3)`` of :attr:`input_type`, and where the image lies in it."""
        center = cut_center(image, *self.kept(*image.shape[:2]))
        resize = resize_as_tf1 if self.interpolation == "tf1" else resize_image
        return self.place(resize(center, *self.scaled(*center.shape[:2])), (image.shape[0], image.shape[1]))

    def place(self, scaled: Input, image: tuple[int, int]) -> tuple[Input, Placement]:
        """Makes the input from an image that is already resized to the size that :meth:`scaled` returns.

        Args:
            scaled: Pixels of the resized image, or of its center that :meth:`kept` names.
            image: (height, width) of the original image.

        Returns:
            The same as :meth:`__call__`.
        """
        placement = Placement(image, self.content(*image))
        if scaled.shape[:2] == self.size:
            return scaled, placement
        if self.resize == "crop":
            return np.ascontiguousarray(cut_center(scaled, *self.size)), placement
        canvas = np.full((*self.size, 3), self.fill, dtype=scaled.dtype)
        canvas[: scaled.shape[0], : scaled.shape[1]] = scaled
        return canvas, placement


def _kept_side(side: int, scaled: int, wanted: int) -> int:
    most = _MOST_SCALED * wanted
    if scaled <= most:
        return side
    kept = max(1, -(-side * most // scaled))
    # As odd or even as the whole, so that both have the same center.
    return min(side, kept + (side - kept) % 2)


def preprocess_file(path: File, preprocess: Preprocess) -> tuple[Input, Placement]:
    """Makes the input from an image file, which is decoded no larger than needed.

    The result differs from ``preprocess(decode(path))`` by less than half a gray level on average.

    Args:
        path: The file.
        preprocess: How an image becomes the network's input.

    Returns:
        The input, ``(*size, 3)``, and where the image at its original size lies in it.

    Raises:
        UnreadableImageError: See :func:`mbv2kit.imaging.images.decode`.
    """
    if preprocess.interpolation == "tf1":
        # A file that is decoded at a smaller scale has other pixels.
        return preprocess(decode(path))
    return preprocess.place(*decode_resized(path, preprocess.scaled, preprocess.kept))


def as_type(inputs: NDArray[Any], wanted: InputType) -> NDArray[Any]:
    """Converts inputs of a network to the type that it takes; floats are rounded to bytes."""
    if inputs.dtype == wanted:
        return inputs
    return np.rint(inputs).astype(np.uint8) if wanted == "uint8" else inputs.astype(np.float32)
