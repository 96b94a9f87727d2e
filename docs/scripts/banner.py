"""Draws the image at the top of README: three photographs, each predicted by a published file.

python -m docs.scripts.banner DATA

DATA holds ``images`` and ``weights`` from github.com/google-coral/test_data, and ``weights/oidv4_labels.txt``, the
names of the detector's classes.
"""

import sys
from pathlib import Path

from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont, ImageOps

import mbv2kit

OUTPUT = Path(__file__).parents[2] / "docs" / "images" / "banner.webp"
# Title, photograph, weights, names of their classes.
COLUMNS: tuple[tuple[str, str, str, str | None], ...] = (
    ("Classify", "bird.bmp", "mobilenet_v2_1.0_224_quant.tflite", "imagenet_labels.txt"),
    ("Detect", "pets.jpg", "ssd_mobilenet_v2_oidv4_fp16.tflite", "oidv4_labels.txt"),
    ("Segment", "cat.bmp", "deeplabv3_mnv2_pascal_quant.tflite", None),
)
# Pixels.
PHOTOGRAPH, GAP, HEADER, RADIUS = (400, 300), 16, 52, 20
# Dark enough for a light page, light enough for a dark one.
GROUND, INK = (38, 50, 56), (236, 239, 241)


def draw(data: Path) -> PillowImage.Image:
    """Returns the image with a column for each task, transparent outside its rounded corners."""
    folder = data / "weights"
    columns = [
        (title, _predicted(data / "images" / photograph, folder / weights, folder / names if names else None))
        for title, photograph, weights, names in COLUMNS
    ]
    width = sum(column.width for _, column in columns) + (len(columns) + 1) * GAP
    height = HEADER + max(column.height for _, column in columns) + GAP
    banner = PillowImage.new("RGBA", (width, height))
    drawing = ImageDraw.Draw(banner)
    drawing.rounded_rectangle((0, 0, width - 1, height - 1), RADIUS, GROUND)
    x = GAP
    for title, column in columns:
        drawing.text((x + column.width / 2, HEADER / 2), title, INK, ImageFont.load_default(26), anchor="mm")
        banner.paste(column, (x, HEADER))
        x += column.width + GAP
    return banner


def _predicted(photograph: Path, weights: Path, class_names: Path | None) -> PillowImage.Image:
    model = mbv2kit.load(weights, class_names=class_names)
    with PillowImage.open(photograph) as image:
        return PillowImage.fromarray(model(ImageOps.fit(image.convert("RGB"), PHOTOGRAPH)).plot())


if __name__ == "__main__":
    draw(Path(sys.argv[1])).save(OUTPUT, quality=88, method=6)
