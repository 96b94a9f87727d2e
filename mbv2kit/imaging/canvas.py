"""What drawings are made of: panels, images of different sizes put together, and text that fits.

Images are ``(H, W, 3)`` uint8 RGB arrays.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from mbv2kit.imaging.fonts import Font, font_for
from mbv2kit.imaging.resizing import resize_image
from mbv2kit.structures import Image
from mbv2kit.texts import shown

LONG_SIDE = 320
INK = (236, 236, 236)
_PANEL = (27, 29, 33)


def enlarge(image: Image) -> Image:
    """Scales an image up until its longer side has :data:`LONG_SIDE` pixels; a larger image stays as it is."""
    return scale(image, max(1.0, LONG_SIDE / max(image.shape[:2])))


def scale(image: Image, factor: float) -> Image:
    """Resizes both sides of an image by a factor, to at least one pixel."""
    return resize_image(image, *(max(1, round(side * factor)) for side in image.shape[:2]))


def panel(height: int, width: int) -> Image:
    """Returns an empty area in the background color."""
    return np.full((height, width, 3), _PANEL, dtype=np.uint8)


def pad(image: Image, height: int, width: int) -> Image:
    """Adds background on the right and below, up to a size that is at least the image's."""
    if image.shape[:2] == (height, width):
        return image
    canvas = panel(height, width)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def stack(images: Sequence[Image]) -> Image:
    """Puts images below each other, aligned on the left."""
    width = max(image.shape[1] for image in images)
    return np.vstack([pad(image, image.shape[0], width) for image in images])


def fitting_font(image: Image, texts: Iterable[str] = ()) -> Font:
    """Returns a font of a size that suits an image, with letters for all of the texts if the machine has one."""
    return font_for(max(13, round(0.03 * min(image.shape[:2]))), texts)


def line_height(font: Font) -> int:
    """Returns the height in pixels of a line of text."""
    return round(font.size * 1.45)


def margin_of(font: Font) -> int:
    """Returns the distance in pixels between text and what is next to it."""
    return round(font.size / 2)


def shorten(text: str, font: Font, width: float) -> str:
    """Cuts a text that is wider than ``width`` pixels and ends it with an ellipsis."""
    # A name may have any length and any characters; a letter takes a pixel at least, and line breaks cannot be drawn.
    start = shown(text[: int(width) + 1])
    if len(start) <= width and font.getlength(start) <= width:
        return start
    kept = bisect_right(range(1, len(start) + 1), width, key=lambda count: font.getlength(f"{start[:count]}…"))
    return f"{start[:kept]}…" if kept else ""


def text_panel(width: int, font: Font, text: str) -> Image:
    """Draws a line of text in the middle of a panel."""
    canvas = PillowImage.fromarray(panel(line_height(font) + margin_of(font), width))
    ImageDraw.Draw(canvas).text((width / 2, canvas.height / 2), text, INK, font, anchor="mm")
    return np.asarray(canvas)
