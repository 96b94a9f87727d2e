"""The registries of the parts that a training run is made of."""

from typing import Any

from mbv2kit.registry import Registry


def training_parts() -> list[Registry[Any]]:
    """Returns the registries whose names are choices of ``conf/train.yaml``; importing them takes seconds."""
    from mbv2kit.backbones import BACKBONES
    from mbv2kit.data.augment import PRESETS
    from mbv2kit.data.sources import SOURCES
    from mbv2kit.evaluation import EVALUATORS
    from mbv2kit.heads import HEADS
    from mbv2kit.training.optimizers import OPTIMIZERS
    from mbv2kit.training.schedules import SCHEDULES

    return [SOURCES, BACKBONES, HEADS, PRESETS, OPTIMIZERS, SCHEDULES, EVALUATORS]
