"""The layers of a drawing: boxes with tags, colored regions with a legend, a list of classes.

Images are ``(H, W, 3)`` uint8 RGB arrays, enlarged already where they are small.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw

from mbv2kit.imaging.canvas import INK, LONG_SIDE, fitting_font, line_height, margin_of, panel, shorten
from mbv2kit.imaging.colors import BACKGROUND, COLORS, palette
from mbv2kit.imaging.fonts import Font
from mbv2kit.imaging.resizing import count_values, resize_mask
from mbv2kit.structures import IGNORE, Boxes, Image

_BLEND = 0.55
_DIM = (70, 74, 82)
_IGNORED = (224, 224, 192)

Color = tuple[int, int, int]
Place = tuple[float, float, float, float]


def list_classes(image: Image, rows: Sequence[tuple[int, str, float]], class_names: Sequence[str]) -> Image:
    """Draws a strip for an image, with a line for each (class id, text on the right, length of the bar in 0..1)."""
    font = fitting_font(image, [class_names[i] for i, _, _ in rows])
    line, margin = line_height(font), margin_of(font)
    width = max(image.shape[1], LONG_SIDE)
    labels = [shorten(class_names[i], font, 0.55 * width if text else width - 2 * margin) for i, text, _ in rows]
    label_width = max(map(font.getlength, labels), default=0)
    value_width = font.getlength("100.0%")
    bar_left, bar_right = 2 * margin + label_width, width - 2 * margin - value_width

    canvas = PillowImage.fromarray(panel(len(rows) * line + 2 * margin, width))
    draw = ImageDraw.Draw(canvas)
    for row, (label, (class_id, text, share)) in enumerate(zip(labels, rows, strict=True)):
        middle = margin + (row + 0.5) * line
        draw.text((margin, middle), label, INK, font, anchor="lm")
        if text:
            draw.text((width - margin, middle), text, INK, font, anchor="rm")
            top, bottom = middle - line * 0.2, middle + line * 0.2
            draw.rectangle((bar_left, top, bar_right, bottom), _DIM)
            if share > 0:
                end = bar_left + (bar_right - bar_left) * min(share, 1.0)
                draw.rectangle((bar_left, top, end, bottom), _class_color(class_id))
    return np.asarray(canvas)


def draw_boxes(
    image: Image, size: tuple[int, ...], boxes: Boxes, class_ids: Sequence[int], tags: Sequence[str]
) -> Image:
    """Draws outlines and tags; the first box lies on top, and its tag is placed first.

    Args:
        image: The image, enlarged or not.
        size: Height and width of the image that the boxes are in pixels of.
        boxes: ``(N, 4)`` corners in pixels.
        class_ids: The class of each box.
        tags: The text of each box.
    """
    canvas = PillowImage.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font = fitting_font(np.asarray(canvas), tags)
    thickness = max(2, round(font.size / 7))
    factor = np.array(canvas.size, dtype=np.float32) / (size[1], size[0])
    limit = np.array(canvas.size * 2, dtype=np.float32) - 1
    corners = np.clip(boxes * np.tile(factor, 2), 0, limit).round().astype(int)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])

    drawn = list(zip(corners.tolist(), map(_class_color, class_ids), tags, strict=True))
    for box, color, _ in reversed(drawn):
        draw.rectangle(box, outline=color, width=thickness)
    places: list[Place] = []
    for box, color, tag in drawn:
        text = shorten(tag, font, canvas.width - font.size)
        place = _tag_place(box, font.getlength(text) + margin_of(font), line_height(font), canvas.size, places)
        places.append(place)
        draw.rectangle(place, fill=color)
        ink = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 128 else (255, 255, 255)
        draw.text(((place[0] + place[2]) / 2, (place[1] + place[3]) / 2), text, ink, font, anchor="mm")
    return np.array(canvas)


def _tag_place(box: Sequence[int], width: float, height: float, size: tuple[int, int], taken: Sequence[Place]) -> Place:
    """Finds a place at the box's edge that is inside the image and, if possible, clear of the other tags."""
    x1, y1, x2, y2 = box
    spots = [(x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width)]
    candidates = []
    for x, y in spots:
        left = max(0.0, min(x, size[0] - 1 - width))
        top = max(0.0, min(y, size[1] - 1 - height))
        candidates.append((left, top, left + width, top + height))
    free = (a for a in candidates if not any(_overlap(a, b) for b in taken))
    return next(free, candidates[0])


def _overlap(a: Place, b: Place) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_regions(
    image: Image, size: tuple[int, ...], mask: NDArray[np.uint8], class_names: Sequence[str]
) -> tuple[Image, Image]:
    """Colors the regions of an image that was enlarged from ``size``; returns it and the legend that goes below it."""
    if mask.shape != size:
        raise ValueError(f"mask must be of the image's size {size}, got {mask.shape}")
    counts = count_values(mask)
    mask = resize_mask(mask, *image.shape[:2])
    present = np.flatnonzero(counts)
    font = fitting_font(image, [class_names[i] for i in present.tolist() if i != IGNORE])

    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(class_names)] = palette(class_names)
    table[IGNORE] = _IGNORED
    # Ten times as fast as table[mask].
    colors = cv2.applyColorMap(mask, table[:, None])
    colored: Image = cv2.addWeighted(image, 1 - _BLEND, colors, _BLEND, 0).astype(np.uint8, copy=False)
    clear = np.zeros(256, dtype=np.uint8)
    clear[: len(class_names)] = [name == BACKGROUND for name in class_names]
    cv2.copyTo(image, cv2.LUT(mask, clear), colored)
    colored[_contours(mask, max(1, round(font.size / 12)))] = 255

    entries = []
    for index in np.argsort(-counts, kind="stable")[: len(present)].tolist():
        name = "ignored" if index == IGNORE else class_names[index]
        entries.append((f"{name} {counts[index] / counts.sum():.1%}", _tuple(table[index])))
    return colored, _legend(entries, max(image.shape[1], LONG_SIDE), font)


def _contours(mask: NDArray[np.uint8], thickness: int) -> NDArray[np.bool_]:
    """Marks the pixels where two classes meet."""
    edges = np.zeros(mask.shape, dtype=np.uint8)
    edges[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edges[1:] |= mask[1:] != mask[:-1]
    return cv2.dilate(edges, np.ones((thickness, thickness), dtype=np.uint8)).astype(np.bool_)


def _legend(entries: Iterable[tuple[str, Color]], width: int, font: Font) -> Image:
    """Draws color swatches with their texts, in as many lines as they need."""
    line, margin = line_height(font), margin_of(font)
    x, y = margin, margin
    placed = []
    for text, color in entries:
        text = shorten(text, font, width - 4 * margin)
        length = round(font.getlength(text)) + 2 * margin
        if x > margin and x + length > width - margin:
            x, y = margin, y + line
        placed.append((x, y, text, color))
        x += length + 2 * margin
    canvas = PillowImage.fromarray(panel(y + line + margin, width))
    draw = ImageDraw.Draw(canvas)
    for x, y, text, color in placed:
        middle, half = y + line / 2, font.size * 0.4
        draw.rectangle((x, middle - half, x + 2 * half, middle + half), color, outline=_DIM)
        draw.text((x + 2 * margin, middle), text, INK, font, anchor="lm")
    return np.asarray(canvas)


def _class_color(class_id: int) -> Color:
    return _tuple(COLORS[class_id % len(COLORS)])


def _tuple(color: NDArray[np.uint8]) -> Color:
    red, green, blue = color.tolist()
    return red, green, blue
