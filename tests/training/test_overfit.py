"""Every head learns sixteen real pictures by heart: the whole path from source to figure, with nothing left to chance."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import TrainingBatch, TrainingSet, collate_training
from mbv2kit.data.sources import Source, create_source
from mbv2kit.evaluation import create_evaluator
from mbv2kit.heads import Head
from mbv2kit.images import InputRule
from mbv2kit.model import ModelSpec, VisionModel
from mbv2kit.structures import Sample, Task

COUNT = 16


class First(Source):
    """The first pictures of a source."""

    def __init__(self, source: Source) -> None:
        self.class_names = source.class_names
        self._source = source

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Sample:
        return self._source[index]


def learn(task: Task, source: Source, head: dict[str, Any], backbone: dict[str, Any], size: tuple[int, int]) -> Any:
    """Trains on all pictures at once, as they are, and returns the figures on the same pictures."""
    torch.manual_seed(0)
    rule = InputRule(size, "stretch")
    model = VisionModel(
        ModelSpec(
            backbone={"name": "mobilenet_v2", "norm_momentum": 0.1, **backbone},
            heads={task: head},
            class_names={task: source.class_names},
            input=rule,
        )
    ).to(memory_format=torch.channels_last)
    pictures = TrainingSet(source, create_augment({"preset": "none"}, rule), seed=0)
    batch: TrainingBatch = collate_training([pictures[0, index] for index in range(COUNT)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    part = model.heads[task]
    assert isinstance(part, Head)
    model.train()
    for step in range(160):
        # The last steps are small, so that the batch norm statistics catch up with the weights.
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (160 - step) / 80)
        loss = torch.stack(list(part.loss(model(batch.images)[task], batch.targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    evaluator = create_evaluator(task, source.class_names)
    for index in range(COUNT):
        sample = source[index]
        evaluator.update(model.predict([sample.image])[0][task], sample)
    return evaluator.compute().metrics


@pytest.mark.slow
def test_the_classifier(shared_data: Path) -> None:
    source = create_source("imagenet", task="classification", root=shared_data / "imagenet_samples", split="val")
    figures = learn("classification", First(source), {"name": "classifier"}, {"width": 0.5}, (96, 96))
    assert figures["top1"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssdlite", "ssd"])
def test_ssd(name: str, shared_data: Path) -> None:
    source = create_source("voc", task="detection", root=shared_data / "bccd", split="train")
    head = {"name": name, "norm_momentum": 0.1, "min_scale": 0.1, "anchors": "uniform"}
    figures = learn("detection", First(source), head, {"width": 0.35}, (240, 320))
    assert figures["AP50"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("aspp", [False, True])
def test_deeplab(aspp: bool, shared_data: Path) -> None:
    source = create_source("voc", task="segmentation", root=shared_data / "camvid", split="train")
    head = {"name": "deeplab_v3", "norm_momentum": 0.1, "aspp": aspp, "channels": 64}
    figures = learn("segmentation", First(source), head, {"width": 0.5, "output_stride": 8}, (177, 241))
    assert figures["mIoU"] >= 0.90
