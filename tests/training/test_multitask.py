"""Several heads on one backbone: what an image without some ground truth changes, and how a run goes on."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from mbv2kit.data.datamodule import TrainingBatch, collate_training
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Sample, Task
from mbv2kit.training.run import train
from mbv2kit.training.task import VisionTask
from tests.training.test_resume import assert_same_run
from tests.training.test_task import make_task, samples, silence

Compose = Callable[..., DictConfig]
BOTH: tuple[Task, Task] = ("detection", "segmentation")


def gradients(task: VisionTask, batch: TrainingBatch, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Returns the gradients of a step, with statistics that do not depend on the batch."""
    silence(task, monkeypatch)
    # Batch statistics would let the images without ground truth count after all.
    task.eval()
    task.zero_grad(set_to_none=True)
    task.training_step(batch, 1).backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in task.model.named_parameters() if parameter.grad is not None}


def without(sample: Sample, task: Task) -> Sample:
    if task == "segmentation":
        return replace(sample, mask=None)
    return replace(sample, boxes=None, labels=None, crowd=None)


@pytest.mark.parametrize("missing", BOTH)
def test_images_without_ground_truth_change_neither_loss_nor_gradient(
    missing: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = (task for task in BOTH if task != missing)
    task = make_task(*BOTH)
    every = samples(*BOTH)
    half = [without(sample, missing) if index % 2 else sample for index, sample in enumerate(every)]
    together = gradients(task, collate_training(half), monkeypatch)
    losses = {name: float(value) for name, (value, _) in task._losses.terms.items()}
    # The head that all images serve, and the other one on the half of them that serves it.
    alone = {
        task_: gradients(task, collate_training([without(sample, other) for sample in chosen]), monkeypatch)
        | {"loss": task._losses.terms["loss"][0]}
        for task_, other, chosen in ((kept, missing, every), (missing, kept, every[::2]))
    }
    total = sum(float(each.pop("loss")) for each in alone.values())
    assert losses["loss"] == pytest.approx(total, rel=1e-6)
    for name, gradient in together.items():
        wanted = sum(each[name] for each in alone.values() if name in each)
        assert isinstance(wanted, torch.Tensor)
        scale = max(1.0, float(wanted.abs().max()))
        assert float((gradient - wanted).abs().max()) <= 1e-6 * scale, name


def test_means_are_over_the_images_of_each_head(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(*BOTH, ema_decay=None)
    silence(task, monkeypatch)
    every = samples(*BOTH)
    for chosen in (every, [without(sample, "segmentation") for sample in every]):
        batch = collate_training(chosen)
        task.guard.remember()
        task.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
        task.on_before_optimizer_step(task.optimizer)
    task.mean_losses()
    assert task._images == {
        "detection/classification": 8,
        "detection/localization": 8,
        "segmentation/segmentation": 4,
        "loss": 8,
    }


@pytest.mark.parametrize("apart", [None, (2, 2)])
def test_data_sets_apart_have_batch_statistics_of_their_own(
    apart: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(*BOTH, ema_decay=None).train()
    task._losses._apart = apart
    silence(task, monkeypatch)
    missing: list[Task] = ["segmentation", "segmentation", "detection", "detection"]
    batch = collate_training([without(*each) for each in zip(samples(*BOTH), missing, strict=True)])
    seen: list[int] = []
    task.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    task.training_step(batch, 1)
    assert seen == ([4] if apart is None else [2, 2])


def test_a_batch_without_enough_ground_truth_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(*BOTH, ema_decay=None)
    first, second, *_ = samples(*BOTH)
    batch = collate_training([without(first, "segmentation"), without(second, "detection")])
    assert batch.targets == {}
    assert not any(gradient.any() for gradient in gradients(task, batch, monkeypatch).values())


def test_gradients_of_an_earlier_epoch_are_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(*BOTH, ema_decay=None)
    silence(task, monkeypatch)
    every = samples(*BOTH)
    task.training_step(collate_training(every), 0)
    assert set(task.pulls) == {
        "pull/norm/detection",
        "pull/norm/segmentation",
        "pull/cosine/detection/segmentation",
    }
    # The first step of the next epoch has nothing to compare.
    task.training_step(collate_training([without(sample, "segmentation") for sample in every]), 0)
    assert task.pulls == {}


def test_a_head_without_a_loss_in_an_epoch_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(*BOTH, ema_decay=None)
    silence(task, monkeypatch)
    monkeypatch.setattr(task, "log_dict", lambda *_: None)
    first, *others = samples(*BOTH)
    for batch in ([first, *others], [first, *(without(sample, "segmentation") for sample in others)]):
        caplog.clear()
        task.guard.remember()
        task.training_step(collate_training(batch), 0).backward()  # type: ignore[no-untyped-call]
        task.on_before_optimizer_step(task.optimizer)
        task.on_train_epoch_end()
    assert [record.getMessage() for record in caplog.records] == [
        "the head for segmentation learned nothing in this epoch: no batch had two images with ground truth for it; "
        "set a larger loader.batch_size"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param("loss_weights=uncertainty", id="one data set"),
        pytest.param(
            "heads=[classifier,deeplab_v3] datasets.segmentation=shapes datasets.segmentation.size=64 "
            "datasets.segmentation.train_count=7 datasets.segmentation.val_count=4 datasets.segmentation.seed=1 "
            "loader.ratio={classification:2,segmentation:1} loader.batch_size=6 loader.mixed=false",
            id="two data sets apart",
        ),
    ],
)
def test_a_run_stopped_within_an_epoch_ends_as_if_it_was_not(
    overrides: str, tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv2kit.training.finish.evaluate_model", lambda *args, **options: None)
    monkeypatch.setattr("mbv2kit.evaluation.plots.learning_curves", lambda *args: None)

    def config(folder: str) -> DictConfig:
        return tiny(tmp_path / folder, "task=multitask", "input.size=[65,65]", *overrides.split())

    whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    train(config("whole"))
    original = VisionTask.training_step
    with monkeypatch.context() as patch:

        def step(self: VisionTask, batch: Any, batch_idx: int) -> Any:
            if self.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(self, batch, batch_idx)

        patch.setattr(VisionTask, "training_step", step)
        train(config("run"))
    assert not run.finished
    train(tiny(Path("unused"), f"resume='{run.path}'"))
    assert_same_run(whole, run)
    heads = VisionModel.load(run.model).heads
    assert list(heads) == (["classification", "detection", "segmentation"] if "heads" not in overrides else list(heads))


@pytest.mark.parametrize(("more", "told"), [("", True), ("datasets.color=shapes datasets.color.seed=1", False)])
def test_heads_that_learn_the_same_are_told(
    more: str, told: bool, tiny: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heads = "heads={kind:classifier,color:classifier}"
    train(tiny(tmp_path / "run", "task=multitask", "trainer.max_epochs=1", heads, *more.split()))
    wanted = "the heads kind and color learn the same, the classification of one data set (shapes); name"
    assert any(record.getMessage().startswith(wanted) for record in caplog.records) == told
