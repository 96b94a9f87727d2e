"""From a picture file to the pixels that a network sees, and back to the picture; no torch needed.

Training data, validation, evaluation and inference all read and resize with these functions, so that a model
scores the same wherever it runs.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from mbv2kit.errors import UserError, nearest
from mbv2kit.structures import Detections, Image, Prediction, Segmentation

# OpenCV's own threads do not survive a fork: a data loader's process that inherits them hangs. Speed comes from
# several pictures at a time instead.
cv2.setNumThreads(1)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
_EXIF_ORIENTATION = 0x0112

Resize = Literal["stretch", "letterbox", "pad", "crop"]


class UnreadableImageError(UserError):
    """A file that is not a picture, or only part of one."""


def decode(path: str | Path) -> Image:
    """Reads a picture of any kind as RGB, turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit pictures become 8-bit RGB; transparent pixels are laid on white; of an animation
    the first frame is taken.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        UnreadableImageError: The file is missing, empty, cut short or no picture.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        return _decode_jpeg(data) if data[:3] == b"\xff\xd8\xff" else _decode_with_pillow(path)
    except FileNotFoundError:
        raise UnreadableImageError(f"{path}: there is no such file.") from None
    except UnidentifiedImageError:
        raise UnreadableImageError(f"{path}: this is not a picture in a known format.") from None
    except (OSError, ValueError, SyntaxError, PillowImage.DecompressionBombError) as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise UnreadableImageError(f"{path}: the picture could not be read ({reason}).") from None


def _decode_jpeg(data: bytes) -> Image:
    with PillowImage.open(BytesIO(data)) as header:
        orientation = header.getexif().get(_EXIF_ORIENTATION, 1)
        if orientation != 1 or header.mode not in ("RGB", "L"):
            return _to_rgb(header)
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True))


def _decode_with_pillow(path: Path) -> Image:
    with PillowImage.open(path) as picture:
        return _to_rgb(picture)


def _to_rgb(picture: PillowImage.Image) -> Image:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 and turns such a picture white.
        values = np.asarray(upright, dtype=np.float64)
        grey = np.clip(values / 257.0 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        white = PillowImage.new("RGBA", rgba.size, "white")
        upright = PillowImage.alpha_composite(white, rgba)
    return np.array(upright.convert("RGB"))


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes pixels; averages over areas when the picture shrinks, interpolates linearly when it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def resize_mask(mask: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resizes class indices; each new pixel takes the class under its centre."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies in the pixels that the network saw: its content fills the top left corner.

    Attributes:
        picture: Height and width of the picture.
        content: Height and width of the picture's content in the network's input.
    """

    picture: tuple[int, int]
    content: tuple[int, int]

    def restore(self, prediction: Prediction) -> Prediction:
        """Carries a prediction made in input pixels over to the pixels of the picture.

        Boxes are clipped to the picture and dropped where nothing is left; masks lose the filled border.
        """
        if isinstance(prediction, Detections):
            height, width = self.picture
            y, x = height / self.content[0], width / self.content[1]
            boxes = prediction.boxes * np.array([x, y, x, y], dtype=np.float32)
            boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
            kept = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
            return Detections(boxes[kept], prediction.class_ids[kept], prediction.scores[kept])
        if isinstance(prediction, Segmentation):
            content = prediction.mask[: self.content[0], : self.content[1]]
            return Segmentation(resize_mask(np.ascontiguousarray(content), *self.picture))
        return prediction


@dataclass(frozen=True, slots=True)
class InputRule:
    """How a picture of any size becomes the network's input; it belongs to the model and travels with it.

    Attributes:
        size: Height and width of the input.
        resize: ``stretch`` to the size, whatever the shape; ``letterbox``: scaled to fit, rest filled; ``pad``: the
            same but never enlarged; ``crop``: the short side scaled to ``size / crop_fraction``, the centre cut out.
        crop_fraction: Share of the scaled picture's side that ``crop`` keeps, in (0, 1].
        fill: Grey value of the pixels that no picture covers, 0..255.
    """

    size: tuple[int, int]
    resize: Resize = "stretch"
    crop_fraction: float = 0.875
    fill: int = 127

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"input.size must be two positive numbers (height, width), got {list(self.size)}.")
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        if self.resize not in get_args(Resize):
            raise UserError(f"input.resize '{self.resize}' is unknown.{nearest(self.resize, get_args(Resize))}")
        if not 0 < self.crop_fraction <= 1:
            raise UserError(f"input.crop_fraction must be above 0 and at most 1, got {self.crop_fraction}.")
        if not 0 <= self.fill <= 255:
            raise UserError(f"input.fill must be a grey value in 0..255, got {self.fill}.")

    def content(self, height: int, width: int) -> tuple[int, int]:
        """Returns the height and width that a picture has in the input; ``crop`` fills it."""
        if self.resize in ("stretch", "crop"):
            return self.size
        scale = min(self.size[0] / height, self.size[1] / width)
        if self.resize == "pad":
            scale = min(1.0, scale)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def __call__(self, image: Image) -> tuple[Image, Placement]:
        """Returns the input, ``(*size, 3)`` uint8, and where the picture lies in it."""
        height, width = image.shape[:2]
        content = self.content(height, width)
        placement = Placement((height, width), content)
        if self.resize == "crop":
            return self._crop(image), placement
        shown = resize_image(image, *content)
        if content == self.size:
            return shown, placement
        canvas = np.full((*self.size, 3), self.fill, dtype=np.uint8)
        canvas[: content[0], : content[1]] = shown
        return canvas, placement

    def _crop(self, image: Image) -> Image:
        height, width = image.shape[:2]
        scale = max(self.size[0] / height, self.size[1] / width) / self.crop_fraction
        scaled = resize_image(image, max(self.size[0], round(height * scale)), max(self.size[1], round(width * scale)))
        top = (scaled.shape[0] - self.size[0]) // 2
        left = (scaled.shape[1] - self.size[1]) // 2
        return np.ascontiguousarray(scaled[top : top + self.size[0], left : left + self.size[1]])
