"""Small models to export, in which every weight and norm has an effect."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Image, Task
from tests.norms import randomize_norms

HEADS: dict[Task, dict[str, Any]] = {
    "classification": {"name": "classifier"},
    "detection": {"name": "ssdlite", "score_threshold": 0.05},
    "segmentation": {"name": "deeplab_v3"},
}
CLASSES: dict[Task, tuple[str, ...]] = {
    "classification": ("cat", "dog", "owl", "emu", "elk"),
    "detection": ("cat", "dog"),
    "segmentation": ("background", "cat", "dog"),
}


def small_model(*tasks: Task, side: int = 64, **backbone: Any) -> VisionModel:
    """Builds a narrow MobileNetV2 with a head for each task."""
    torch.manual_seed(0)
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35, **backbone},
        heads={task: HEADS[task] for task in tasks},
        class_names={task: CLASSES[task] for task in tasks},
        input=Preprocess((side, side)),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    return model


def noise(count: int, size: tuple[int, int], seed: int = 0) -> list[Image]:
    """Draws inputs with large and small structures, as images have."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (4, 4, 3)).repeat(-(-size[0] // 4), axis=0).repeat(-(-size[1] // 4), axis=1)
        fine = rng.integers(-30, 30, (*size, 3))
        images.append(np.clip(coarse[: size[0], : size[1]] + fine, 0, 255).astype(np.uint8))
    return images


def saved(model: VisionModel, folder: Path) -> Path:
    """Saves a model and returns its folder."""
    model.save(folder)
    return folder
