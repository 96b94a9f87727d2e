"""Draws the image at the top of README: a scene that no run trains on, predicted by the three runs of the demo.

mbv2kit demo run_dir=outputs/demo
python -m docs.scripts.banner outputs/demo
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

import mbv2kit
from mbv2kit.data.sources.shapes import draw_scene

OUTPUT = Path(__file__).parents[2] / "docs" / "images" / "banner.png"
TITLES = {"classification": "Classify", "detection": "Detect", "segmentation": "Segment"}
SEED = 7
# Pixels. The scene is larger than the networks' input, so that the drawing is sharp.
SCENE, GAP, HEADER, RADIUS = 288, 16, 52, 20
# Dark enough for a light page, light enough for a dark one.
GROUND, INK = (38, 50, 56), (236, 239, 241)


def draw(runs: Path) -> PillowImage.Image:
    """Returns the image with a column for each task, transparent outside its rounded corners."""
    scene = draw_scene(np.random.default_rng(SEED), SCENE).image
    columns = [PillowImage.fromarray(mbv2kit.load(runs / task)(scene).plot()) for task in TITLES]
    width = sum(column.width for column in columns) + (len(columns) + 1) * GAP
    height = HEADER + max(column.height for column in columns) + GAP
    banner = PillowImage.new("RGBA", (width, height))
    draw = ImageDraw.Draw(banner)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), RADIUS, GROUND)
    x = GAP
    for column, title in zip(columns, TITLES.values(), strict=True):
        draw.text((x + column.width / 2, HEADER / 2), title, INK, ImageFont.load_default(26), anchor="mm")
        banner.paste(column, (x, HEADER))
        x += column.width + GAP
    return banner


if __name__ == "__main__":
    draw(Path(sys.argv[1])).save(OUTPUT, optimize=True)
