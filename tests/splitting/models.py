"""Models in which every parameter affects the outputs."""

from collections.abc import Mapping
from typing import Any

from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task
from tests.norms import randomize_norms


def build(
    task: Task = "classification",
    head: Mapping[str, Any] | None = None,
    classes: int = 10,
    **backbone: Any,
) -> VisionModel:
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "zero_init_residual": False} | backbone,
        heads={task: head or {"name": "classifier"}},
        class_names={task: tuple(map(str, range(classes)))},
        input=Preprocess(size=(96, 96)),
    )
    model = VisionModel(spec)
    randomize_norms(model)
    return model.eval()
