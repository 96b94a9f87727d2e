"""Training on the most awkward batches gives finite numbers, in float32 and bfloat16."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from mbv2kit.backbones import BACKBONES
from mbv2kit.errors import UserError
from mbv2kit.evaluation import create_evaluator, write_metrics
from mbv2kit.heads.classifier import Classifier
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import IGNORE, Classification, Detections, Sample, Task
from mbv2kit.training.run import train
from mbv2kit.training.task import VisionTask
from tests.little import Little

Compose = Callable[..., DictConfig]

SIDE = 64
PREPROCESS = Preprocess(size=(SIDE, SIDE), resize="stretch", crop_fraction=1.0, fill=127)
DETECTORS: dict[str, dict[str, Any]] = {
    "ssdlite": {},
    "yolo_v2": {"anchors": [[0.1, 0.1], [0.3, 0.3]], "num_anchors": 2, "channels": 16, "passthrough_channels": 8},
}


def build(task: Task, classes: int, head: str, **options: Any) -> VisionModel:
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={task: {"name": head, **options}},
        class_names={task: tuple(f"class {index}" for index in range(classes))},
        input=PREPROCESS,
    )
    return VisionModel(spec).train()


def boxes(*counts: int, crowd: bool = False, classes: int = 3) -> dict[str, Any]:
    """Targets of images with this many boxes each."""
    corners = [torch.rand(count, 2) * 0.8 * SIDE for count in counts]
    return {
        "boxes": [torch.cat([start, start + torch.rand_like(start) * 0.2 * SIDE], 1) for start in corners],
        "labels": [torch.randint(classes, (count,)) for count in counts],
        "crowd": [torch.full((count,), crowd) for count in counts],
    }


def assert_finite(model: VisionModel, targets: dict[str, Any]) -> None:
    """Takes a step without an optimizer in both formats."""
    (task,) = model.heads
    for reduced in (False, True):
        model.zero_grad()
        images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            raw = model(images)
            losses: dict[str, Tensor] = model.heads[task].loss(raw[task], {"size": (SIDE, SIDE), **targets})
        assert all(value.isfinite() and value >= 0 for value in losses.values()), losses
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", DETECTORS)
def test_any_number_of_objects_gives_a_finite_step(head: str) -> None:
    model = build("detection", 3, head, **DETECTORS[head])
    for targets in (boxes(0, 0), boxes(0, 3), boxes(4, 4, crowd=True), boxes(5000, 1)):
        assert_finite(model, targets)


def test_a_mask_of_nothing_but_void_gives_a_finite_step() -> None:
    void = torch.full((2, SIDE, SIDE), IGNORE, dtype=torch.uint8)
    assert_finite(build("segmentation", 3, "deeplab_v3"), {"mask": void})


def test_a_thousand_classes_give_a_finite_step() -> None:
    assert_finite(build("classification", 1000, "classifier"), {"label": torch.tensor([0, 999])})
    assert_finite(build("detection", 1000, "ssdlite"), boxes(3, 3, classes=1000))


def evaluate(path: Path, task: Task, classes: int, prediction: Any, sample: Sample) -> dict[str, Any]:
    """Returns the metrics of one image as the file has them."""
    evaluator = create_evaluator(task, tuple(f"class {index}" for index in range(classes)), None)
    evaluator.update(prediction, sample)
    write_metrics(path, task=task, dataset="d", split="val", images=1, seconds=1.0, scores=evaluator.compute())
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return content["metrics"] | {"per_class": content["per_class"]}  # type: ignore[no-any-return]


def test_a_thousand_classes_are_measured(tmp_path: Path) -> None:
    sample = Sample(image=np.zeros((8, 8, 3), np.uint8), image_id="a.jpg", label=999)
    prediction = Classification(np.arange(999, -1, -1), np.linspace(1, 0, 1000, dtype=np.float32))
    metrics = evaluate(tmp_path / "metrics.json", "classification", 1000, prediction, sample)
    assert (metrics["top1"], metrics["top5"]) == (1.0, 1.0)
    assert metrics["per_class"]["class 0"] == {"top1": None, "images": 0}


def test_five_thousand_objects_in_an_image_are_measured(tmp_path: Path) -> None:
    corners = np.stack(np.meshgrid(np.arange(100), np.arange(50)), -1).reshape(-1, 2) * 10.0
    every = np.concatenate([corners, corners + 8], 1).astype(np.float32)
    sample = Sample(
        image=np.zeros((8, 8, 3), np.uint8),
        image_id="a.jpg",
        boxes=every,
        labels=np.zeros(5000, np.int64),
        crowd=np.zeros(5000, np.bool_),
    )
    found = Detections(every, np.zeros(5000, np.int64), np.linspace(1, 0.5, 5000, dtype=np.float32))
    metrics = evaluate(tmp_path / "metrics.json", "detection", 2, found, sample)
    # A hundred detections count.
    assert metrics["AR100"] == pytest.approx(100 / 5000)
    assert metrics["AP50"] == pytest.approx(3 / 101)
    assert metrics["APl"] is None


# Runs.


@pytest.fixture
def little(add_part: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tiny: Compose, tmp_path: Path) -> DictConfig:
    """Composes a run of the least of networks, without what follows the last epoch."""
    config = tiny(tmp_path / "run", "ema.decay=null")
    config.backbone = {"name": "little", "output_stride": 32}
    add_part(BACKBONES, "little", Little)
    monkeypatch.setattr("mbv2kit.training.run.finish", lambda *_: None)
    return config


@pytest.mark.parametrize(("step", "saved"), [(1, 4), (6, 8)])
def test_a_model_that_is_not_finite_is_not_saved_over_one_that_is(
    little: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, saved: int
) -> None:
    """A step may leave infinite statistics behind while its loss and its gradients are finite."""
    original = VisionTask.optimizer_step

    def optimizer_step(self: VisionTask, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        if self.global_step == step:
            self.model.get_buffer("backbone.layers.little.1.running_var").fill_(float("inf"))

    with monkeypatch.context() as patch:
        patch.setattr(VisionTask, "optimizer_step", optimizer_step)
        with pytest.raises(UserError) as error:
            train(little)
    name = "model.backbone.layers.little.1.running_var"
    assert f"after step {saved}: the model is not finite ({name}); lower optimizer.lr" in str(error.value)
    run = RunFolder(tmp_path / "run")
    if step == 1:
        # There is no state to go on from.
        assert not run.path.exists()
        return
    kept = torch.load(run.checkpoints / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
    little.resume = str(run.path)
    train(little)
    assert torch.load(run.checkpoints / "last.ckpt", weights_only=True)["epoch"] == 1


def test_an_epoch_of_skipped_steps_has_no_loss(
    little: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = Classifier.loss, count()

    def loss(self: Classifier, raw: Any, targets: Any) -> dict[str, Tensor]:
        terms = original(self, raw, targets)
        return {name: value * float("nan") if next(steps) < 2 else value for name, value in terms.items()}

    monkeypatch.setattr(Classifier, "loss", loss)
    little.trainer.limit_train_batches = 2
    train(little)
    run = RunFolder(tmp_path / "run")
    assert "no loss" in next(line for line in run.log.read_text().splitlines() if "epoch 1/2" in line)
    assert "nan" not in (run.path / "metrics.csv").read_text()


def test_reduced_precision_trains_and_evaluates(tiny: Compose, tmp_path: Path) -> None:
    run = train(tiny(tmp_path / "run", "trainer.precision=bf16-mixed", "trainer.max_epochs=1", task="detection"))
    assert "nan" not in (run.path / "metrics.csv").read_text()
    metrics = json.loads(run.metrics.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert metrics["metrics"]["AP"] >= 0
    assert "skipped" not in run.log.read_text()
