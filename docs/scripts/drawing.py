"""Draws the layers of the code from the import contract in pyproject.toml: docs/images/architecture.svg.

python -m docs.scripts.drawing

All text stands on filled boxes, so that the drawing can be read on a light and on a dark page.
"""

import re
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
SVG = ROOT / "docs" / "images" / "architecture.svg"
# Pixels. A box is as high as its two lines of text.
WIDTH, HEIGHT, GAP, MARGIN = 960, 46, 10, 12
# What each module is for; what is missing here is an error, what is no longer in the contract as well.
CAPTIONS = {
    "api": "import mbv2kit: load, create_model, train, evaluate, export",
    "commands": "mbv2kit train, eval, infer, export, ...: a docstring, a configuration, one call",
    "lab": "the paper's numbers and the benchmark; nothing but the commands imports it",
    "training": "from a configuration to a run folder; optimizers and schedules",
    "exporting": "from a model to ONNX, OpenVINO, LiteRT and ExecuTorch files, checked against PyTorch",
    "evaluation": "metrics and plots, an evaluator per task",
    "serving": "models over HTTP",
    "inference": "from images to results, in any runtime",
    "cli": "configurations, help, mistakes",
    "splitting": "inference in little memory",
    "weights": "published weights, an origin per file",
    "data": "data sets and augmentation",
    "analysis": "what a network costs: operations, memory",
    "models": "backbone + heads as one model, its folder, its run, the network to export",
    "backbones": "a file per paper: images to feature maps",
    "heads": "a file per paper: feature maps to loss and outputs",
    "imaging": "decode, preprocess, postprocess, draw; no torch",
    "nn": "layers, boxes, feature maps, interpolation",
    "structures": "samples",
    "registry": "named parts",
    "schema": "valid values",
    "errors": "UserError",
    "process": "processes",
    "memory": "its limit",
    "files": "whole files",
    "texts": "safe to show",
}
# From the commands at the top to the modules that import nothing of the package.
TOP, BOTTOM = (0, 121, 107), (69, 90, 100)


def draw() -> str:
    """Returns the drawing as SVG."""
    rows = layers()
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * GAP
    boxes = []
    for number, names in enumerate(rows):
        share = number / (len(rows) - 1)
        color = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(TOP, BOTTOM, strict=True))
        width = (WIDTH - 2 * MARGIN - (len(names) - 1) * GAP) / len(names)
        y = MARGIN + number * (HEIGHT + GAP)
        boxes += [_box(MARGIN + k * (width + GAP), y, width, color, name) for k, name in enumerate(names)]
    style = (
        "text{font-family:system-ui,sans-serif;fill:#fff}.name{font-weight:600;font-size:15px}.about{font-size:12px}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>The layers of mbv2kit; imports run downwards only</title>",
            f"<style>{style}</style>",
            *boxes,
            "</svg>\n",
        ]
    )


def layers() -> list[list[str]]:
    """Returns the modules of each layer of the import contract, from top to bottom."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    stack = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name for name in re.split(r"\s*[|:]\s*", layer) if name != "__main__"] for layer in stack]


def _box(x: float, y: float, width: float, color: str, name: str) -> str:
    rect = f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{HEIGHT}" rx="6" fill="{color}"/>'
    texts = f'<text class="name" x="{x + 12:.0f}" y="{y + 20}">{name}</text>'
    texts += f'<text class="about" x="{x + 12:.0f}" y="{y + 37}">{escape(CAPTIONS[name])}</text>'
    return rect + texts


if __name__ == "__main__":
    SVG.write_text(draw(), encoding="utf-8")
