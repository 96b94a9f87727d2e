"""Images that tests draw, and how they are stored with an orientation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from mbv2kit.structures import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(height: int = 32, width: int = 48) -> Image:
    """An image with red and green above, blue and white below: no two of its turns look alike."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    image[height // 2 :, width // 2 :] = WHITE
    return image


def assert_quarters(image: Image, tolerance: int = 0) -> None:
    height, width = image.shape[:2]
    corners = image[[4, 4, height - 5, height - 5], [4, width - 5, 4, width - 5]]
    np.testing.assert_allclose(corners.astype(int), [RED, GREEN, BLUE, WHITE], atol=tolerance)


def scene(height: int, width: int) -> Image:
    """An image with soft and sharp edges, fine patterns and colors, of any size."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = 60 * np.sin(x / 9) * np.cos(y / 13) + 30 * np.sin((x + 2 * y) / 3)
    discs = 80.0 * ((x % 61 - 30) ** 2 + (y % 47 - 23) ** 2 < 200)
    channels = [100 + waves + discs * share + 30 * np.sin(x / 50 + turn) for share, turn in ((1, 0), (0.5, 2), (0, 4))]
    image: Image = np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)
    return image


# EXIF says where row 0 and column 0 of the stored pixels belong; this is how an upright image is then stored.
STORED: dict[int, Callable[[Image], Image]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


def save_turned(image: Image, orientation: int, path: Path) -> None:
    turned = PillowImage.fromarray(np.ascontiguousarray(STORED[orientation](image)))
    exif = turned.getexif()
    exif[0x0112] = orientation
    turned.save(path, exif=exif, quality=95)
