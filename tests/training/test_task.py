from typing import Any

import numpy as np
import pytest
import torch

from mbv2kit.data.datamodule import EvaluationBatch, TrainingBatch, collate_evaluation, collate_training
from mbv2kit.data.sources import create_source
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Sample, Task
from mbv2kit.training.finetune import FineTuning
from mbv2kit.training.schedules.constant import Constant
from mbv2kit.training.task import VisionTask

PREPROCESS = Preprocess(size=(64, 64), resize="stretch", crop_fraction=1.0, fill=127)
OPTIMIZER = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "decay_norm_bias_depthwise": False}


def make_task(
    *tasks: Task, ema_decay: float | None = 0.9, seed: int = 0, finetuning: FineTuning | None = None
) -> VisionTask:
    heads: dict[str, dict[str, Any]] = {
        "classification": {"name": "classifier"},
        "detection": {"name": "ssdlite"},
        "segmentation": {"name": "deeplab_v3"},
    }
    names: dict[str, tuple[str, ...]] = {
        task: create_source("shapes", task=task, split="val").class_names for task in tasks
    }
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={task: heads[task] for task in tasks},
        class_names=names,
        input=PREPROCESS,
    )
    schedule = Constant(steps_per_epoch=1, epochs=1)
    return VisionTask(
        VisionModel(spec),
        optimizer=OPTIMIZER,
        schedule=schedule,
        finetuning=finetuning or FineTuning(),
        ema_decay=ema_decay,
        seed=seed,
    )


def samples(*tasks: Task) -> list[Sample]:
    """Four scenes with the ground truth of several tasks at once."""
    sources = [create_source("shapes", task=task, split="val", size=64, val_count=4) for task in tasks]
    merged = [sources[0][index] for index in range(4)]
    for source in sources[1:]:
        for sample, more in zip(merged, (source[index] for index in range(4)), strict=True):
            for key in ("label", "boxes", "labels", "crowd", "mask"):
                value = getattr(more, key)
                setattr(sample, key, getattr(sample, key) if value is None else value)
    return merged


def training_batch(*tasks: Task) -> TrainingBatch:
    return collate_training(samples(*tasks))


def evaluation_batch(*tasks: Task) -> EvaluationBatch:
    return collate_evaluation([(*PREPROCESS(sample.image), sample) for sample in samples(*tasks)])


def silence(task: VisionTask, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Collects what is logged; there is no trainer to log to."""
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: logged.update({name: value}))
    monkeypatch.setattr(task, "log_dict", lambda values, **_: logged.update(values))
    return logged


def test_the_average_is_what_is_deployed_where_there_is_one() -> None:
    averaged, plain = make_task("classification"), make_task("classification", ema_decay=None)
    assert averaged.average is not None
    assert averaged.deployed is averaged.average.model
    assert averaged.deployed is not averaged.model
    assert plain.deployed is plain.model


def test_the_loss_is_the_sum_of_every_term_of_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("classification", "detection", "segmentation").train()
    silence(task, monkeypatch)
    batch = training_batch("classification", "detection", "segmentation")
    task.on_train_batch_start(batch, 0)
    loss = task.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    task.on_before_optimizer_step(task._optimizer)
    means = task.mean_losses()
    total = means.pop("train/loss")
    assert set(means) == {
        "train/classification/classification",
        "train/detection/classification",
        "train/detection/localization",
        "train/segmentation/segmentation",
    }
    assert total == pytest.approx(sum(means.values()), rel=1e-5)
    assert total == pytest.approx(loss.item(), rel=1e-6)
    assert all(parameter.grad is not None for parameter in task.model.parameters())


def test_means_are_over_images_and_leave_out_skipped_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("classification")
    logged = silence(task, monkeypatch)
    for loss, count in ((1.0, 4), (float("nan"), 4), (4.0, 2)):
        batch = TrainingBatch(torch.zeros(count, 3, 8, 8), {}, ["a"] * count)
        task.guard.remember()
        value = (torch.tensor(loss), count)
        task._batch, task._losses.terms = batch, {"classification": value, "loss": value}
        task.on_before_optimizer_step(task._optimizer)
    assert task.mean_losses() == {"train/classification": 2.0, "train/loss": 2.0}
    task.on_train_epoch_end()
    assert {name: value for name, value in logged.items() if name != "loss"} == {
        "train/classification": 2.0,
        "train/loss": 2.0,
    }
    assert task.mean_losses() == {}


def test_what_is_drawn_in_a_step_depends_on_seed_and_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = training_batch("classification")

    def loss(task: VisionTask) -> float:
        task.load_state_dict(weights)
        silence(task, monkeypatch)
        task.on_train_batch_start(batch, 0)
        return task.train().training_step(batch, 0).item()

    task = make_task("classification")
    weights = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    first = loss(task)
    torch.rand(7)
    assert loss(task) == first
    assert loss(make_task("classification", seed=1)) != first
    monkeypatch.setattr(VisionTask, "global_step", 1)
    assert loss(task) != first


def test_validation_scores_the_deployed_model_for_each_task(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task("classification", "segmentation").eval()
    logged = silence(task, monkeypatch)
    # The model in training would say the last class of every image; its average the first.
    for model, outputs in ((task.model, -1), (task.deployed, 0)):
        linear = model.heads["classification"].linear
        assert isinstance(linear, torch.nn.Linear)
        linear.weight.data.zero_()
        linear.bias.data.zero_()[outputs] = 1.0
    batch = evaluation_batch("classification", "segmentation")
    for _ in range(2):  # A second validation starts from nothing.
        task.on_validation_epoch_start()
        task.validation_step(batch, 0)
        task.on_validation_epoch_end()
    share = np.mean([sample.label == 0 for sample in batch.samples])
    assert logged["val/top1"] == share
    assert set(logged) == {"val/top1", "val/top5", "val/mIoU", "val/pixel_accuracy", "val/mean"}
