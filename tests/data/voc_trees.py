"""Data sets with the layout of PASCAL VOC that tests make."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mbv2kit.data.sources import create_source
from mbv2kit.data.sources.voc import Voc

HEIGHT, WIDTH = 30, 40


def xml(*objects: tuple[str, tuple[Any, ...]], difficult: str = "0", size: str = "") -> str:
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in objects
    )
    return f"<annotation>{size}{items}</annotation>"


def image(path: Path, suffix: str = ".png") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 9, np.uint8)).save(path.with_name(path.name + suffix))


def write(root: Path, name: str, text: str) -> None:
    (root / f"Annotations/{name}.xml").write_text(text)


def open_voc(root: Path, **options: Any) -> Voc:
    source = create_source("voc", **{"task": "detection", "root": root, "split": "train", **options})
    assert isinstance(source, Voc)
    return source


def make_tree(root: Path, images: Mapping[str, str], *lines: str) -> Path:
    """Makes a data set for detection: an annotation for each image, and the lines of the list ``train``."""
    for folder in ("ImageSets/Main", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for file, text in images.items():
        name, _, suffix = file.rpartition(".")
        image(root / "JPEGImages" / name, f".{suffix}")
        (root / f"Annotations/{name}.xml").parent.mkdir(parents=True, exist_ok=True)
        write(root, name, text)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root
