"""Every head learns sixteen real images by heart: the whole path, from source to figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import collate_training
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import Source, create_source
from mbv2kit.data.training_set import TrainingSet
from mbv2kit.evaluation import create_evaluator
from mbv2kit.heads import Head
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import IGNORE, Sample, Task

COUNT = 16
RATE = 1e-2


class Chosen(Source):
    """Some images of a source."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.class_names = source.class_names
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._source[self._indices[index]]


def learn(
    task: Task,
    source: Source,
    *,
    head: Mapping[str, Any],
    backbone: Mapping[str, Any],
    size: tuple[int, int],
    steps: int,
) -> dict[str, float]:
    """Trains on all images at once, as they are, and returns the figures on the same images."""
    assert len(source) == COUNT
    preprocess = Preprocess(size, "stretch")
    model = VisionModel(
        ModelSpec(
            backbone={"name": "mobilenet_v2", "norm_momentum": 0.1, **backbone},
            heads={task: dict(head)},
            class_names={task: source.class_names},
            input=preprocess,
        )
    ).to(memory_format=torch.channels_last)
    images = TrainingSet(Joined({task: source}), create_augment({"preset": "none"}, preprocess), seed=0)
    batch = collate_training([images[0, index] for index in range(COUNT)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    part = model.heads[task]
    assert isinstance(part, Head)
    model.train()
    for step in range(steps):
        # The last steps are small, so that the batch norm statistics catch up with the weights.
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - step / steps))
        loss = torch.stack(list(part.loss(model(batch.images)[task], batch.targets[task]).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    evaluator = create_evaluator(task, source.class_names)
    for index in range(COUNT):
        sample = source[index]
        evaluator.update(as_trained(model).predict([sample.image])[0][task], sample)
    return dict(evaluator.compute().metrics)


@pytest.mark.slow
def test_the_classifier(shared_data: Path) -> None:
    source = create_source("imagenet", task="classification", root=shared_data / "imagenet_samples", split="val")
    figures = learn(
        "classification",
        Chosen(source, range(COUNT)),
        head={"name": "classifier"},
        backbone={"width": 0.35},
        size=(64, 64),
        steps=60,
    )
    assert figures["top1"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite", "ssd"])
def test_ssd(name: str, shared_data: Path) -> None:
    source = create_source("voc", task="detection", root=shared_data / "bccd", split="train")
    figures = learn(
        "detection",
        Chosen(source, range(COUNT)),
        head={
            "name": name,
            "norm_momentum": 0.1,
            "maps": ["layer_8_expansion", "layer_15_expansion"],
            "min_scale": 0.1,
            "anchors": "uniform",
        },
        backbone={"width": 0.35},
        size=(96, 128),
        steps=120,
    )
    assert figures["AP50"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("aspp", [False, True])
def test_deeplab(aspp: bool, shared_data: Path) -> None:
    source = create_source("coco", task="segmentation", root=shared_data / "coco_mini", split="train2017")
    figures = learn(
        "segmentation",
        Chosen(source, _with_large_objects(source)),
        head={"name": "deeplab_v3", "norm_momentum": 0.1, "aspp": aspp, "channels": 64},
        backbone={"width": 0.35, "output_stride": 8},
        size=(97, 97),
        steps=70,
    )
    assert figures["mIoU"] >= 0.90


def _with_large_objects(source: Source) -> list[int]:
    """Returns the first images with objects in them whose every class covers a tenth of the image."""
    chosen: list[int] = []
    for index in range(len(source)):
        mask = source[index].mask
        assert mask is not None
        classes, areas = np.unique(mask[mask != IGNORE], return_counts=True)
        if len(classes) > 1 and areas.min() >= 0.1 * mask.size:
            chosen.append(index)
        if len(chosen) == COUNT:
            break
    return chosen
