"""Int8 can be learned, and what is left of it is an ordinary model."""

import csv
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import create_source
from mbv2kit.errors import UserError
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, InvertedResidual
from mbv2kit.structures import Task
from mbv2kit.training.finetune import FineTuning
from mbv2kit.training.qat import FloatTraining, Int8Training, QatOptions
from mbv2kit.training.qat_simulation import round_weights
from mbv2kit.training.run import train
from mbv2kit.training.schedules.constant import Constant
from mbv2kit.training.stopping import StopOnSignal
from mbv2kit.training.task import VisionTask
from tests.training.test_qat_simulation import build, draw, see, simulated
from tests.training.test_task import OPTIMIZER, evaluation_batch, silence, training_batch

Compose = Callable[..., DictConfig]
Trained = Callable[[str], RunFolder]


@torch.no_grad()
def damage(model: VisionModel, octaves: int) -> None:
    """Gives the channels of every bottleneck but the last scales far apart, and their readers the inverse."""
    blocks = [layer for layer in model.backbone.layers.values() if isinstance(layer, InvertedResidual)]
    scales = torch.ones(())
    for block in blocks:
        if isinstance(block.expand, ConvNormAct):
            block.expand.conv.weight.div_(scales.view(1, -1, 1, 1))
        if not block.adds_input:
            channels = block.project.norm.num_features
            scales = (
                torch.ones(channels) if block is blocks[-1] else 2.0 ** torch.randint(-octaves, octaves, (channels,))
            )
        block.project.norm.weight.mul_(scales)
        block.project.norm.bias.mul_(scales)
    assert scales.eq(1).all(), "nothing behind the last block takes its scales back"


def test_a_network_that_int8_harms_learns_to_bear_it() -> None:
    """The error of the logits shrinks, and stays small when the saved weights are calibrated afresh."""
    model, images = build("segmentation", size=32, head={"feature": "layer_8"}), draw(8, 32)
    wanted = see(model, images)["segmentation/logits"]
    damage(model, octaves=4)
    torch.testing.assert_close(see(model, images)["segmentation/logits"], wanted, atol=1e-4, rtol=1e-4)

    def error(model: VisionModel) -> float:
        return float((see(model, images)["segmentation/logits"] - wanted).square().mean())

    copy, simulation = simulated(model, images)
    before = error(copy)
    assert before > 0.3 * wanted.var()
    optimizer = torch.optim.Adam(copy.parameters(), lr=1e-3)
    simulation.train()
    for _ in range(60):
        optimizer.zero_grad()
        (copy(images)["segmentation"]["logits"] - wanted).square().mean().backward()
        optimizer.step()
    round_weights(copy)
    saved = VisionModel(copy.spec).eval()
    saved.load_state_dict(copy.state_dict())
    assert error(simulated(saved, images)[0]) < 0.35 * before


def test_every_weight_gets_a_gradient_through_the_rounding() -> None:
    model = build("classification", "detection", "segmentation")
    copy, _ = simulated(model, draw(2))
    sum(value.square().mean() for raw in copy(draw(2)).values() for value in raw.values()).backward()
    for name, parameter in copy.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any() or name.endswith("bias"), name


def shapes() -> Joined:
    return Joined({"classification": create_source("shapes", task="classification", split="train")})


def prepared(model: VisionModel, options: QatOptions, steps_per_epoch: int) -> Int8Training:
    qat = Int8Training(options)
    qat.prepare(
        model,
        shapes(),
        None,
        steps_per_epoch,
    )
    return qat


@pytest.mark.shows("qat.norms_frozen_after", "qat.ranges_frozen_after")
def test_norms_and_ranges_are_frozen_from_their_steps_on() -> None:
    model = build("classification")
    qat = prepared(model, QatOptions(enabled=True, norms_frozen_after=0.5, ranges_frozen_after=1.5), 4)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for step in range(8):
        # The trainer puts all in training mode now and then.
        model.train()
        qat.begin_step(step)
        assert all(norm.training == (step < 2) for norm in norms)
        assert qat.simulation.observes == (step < 6)
    qat = prepared(model.train(), QatOptions(enabled=True), 4)
    qat.begin_step(0)
    assert not any(norm.training for norm in norms)
    qat.begin_step(10**6)
    assert qat.simulation.observes


def test_a_step_trains_every_head_and_one_that_is_taken_back_leaves_the_ranges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tasks: tuple[Task, ...] = ("classification", "detection", "segmentation")
    batch = training_batch(*tasks)
    model = build(*tasks)
    names: dict[str, tuple[str, ...]] = {
        task: create_source("shapes", task=task, split="val").class_names for task in tasks
    }
    model = VisionModel(replace(model.spec, class_names=names))
    qat = prepared(model, QatOptions(enabled=True), 1)
    int8 = qat.simulation
    task = VisionTask(
        model,
        optimizer=OPTIMIZER,
        schedule=Constant(steps_per_epoch=1, epochs=1),
        finetuning=FineTuning(),
        ema_decay=0.9,
        seed=0,
        qat=qat,
    ).train()
    logged = silence(task, monkeypatch)
    qat.attach(task.model, task.deployed, [batch.images])
    for images, moves in ((batch.images, True), (batch.images.flip(2), False)):
        ranges, weights = int8.highest.clone(), model.backbone.layers["layer_9"].state_dict()
        weights = {name: value.clone() for name, value in weights.items()}
        task.on_train_batch_start(batch, 0)
        loss = task.training_step(replace(batch, images=images), 0) * (1 if moves else float("nan"))
        task._losses.terms = {"loss": (loss.detach(), len(images))}
        loss.backward()  # type: ignore[no-untyped-call]
        assert not torch.equal(int8.highest, ranges)
        task.on_before_optimizer_step(task._optimizer)
        task._optimizer.step()
        assert torch.equal(int8.highest, ranges) != moves
        after = model.backbone.layers["layer_9"].state_dict()
        assert any(not torch.equal(after[name], weights[name]) for name in weights) == moves
    # Validation is of the average in simulated int8, and changes no range.
    task.eval()
    exact = VisionModel(model.spec).eval()
    exact.load_state_dict(task.deployed.state_dict())
    images = evaluation_batch(*tasks).images
    ours, theirs = (see(each, images)["classification/logits"] for each in (task.deployed, exact))
    assert not torch.equal(ours, theirs)
    ranges = int8.highest.clone()
    task.on_validation_epoch_start()
    task.validation_step(evaluation_batch(*tasks), 0)
    task.on_validation_epoch_end()
    assert {"val/top1", "val/AP", "val/mIoU"} <= logged.keys()
    assert torch.equal(int8.highest, ranges)


def test_training_in_floats_changes_nothing_on_the_way() -> None:
    model = build("classification")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = draw(2)
    wanted = see(model, images)
    qat = FloatTraining()
    qat.prepare(model, shapes(), None, 1)
    qat.attach(model, model, [images])
    qat.begin_step(0)
    assert not any(part.training for part in model.modules())
    qat.finish(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in see(model, images).items())
    assert (qat.origin, qat.simulation.state_dict()) == ({}, {})


# Runs.

QAT = ("qat.enabled=true", "optimizer.lr=0.001", "scheduler.warmup_epochs=0", "export=false")


@pytest.mark.shows("qat.enabled")
@pytest.mark.slow
def test_a_run_leaves_an_ordinary_model_on_the_grid(tiny: Compose, trained: Trained, tmp_path: Path) -> None:
    start = trained("classification")
    run = RunFolder(tmp_path / "run")
    # Input and head are those of the weights, whatever the keys say.
    train(tiny(run.path, *QAT, f"weights='{start.path}'", "input.fill=3", "trainer.max_epochs=1"))
    model, before = VisionModel.load(run.model), VisionModel.load(start.model)
    assert replace(model.spec, origin={}) == replace(before.spec, origin={})
    assert model.spec.origin["fine_tuned_for"] == "int8"
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert weights.keys() == before.state_dict().keys()
    moved = [name for name, tensor in weights.items() if not torch.equal(tensor, before.state_dict()[name])]
    assert any(name.endswith("conv.weight") for name in moved)
    assert not any(name.endswith(("running_mean", "running_var")) for name in moved)
    round_weights(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])
    with (run.path / "metrics.csv").open(newline="") as file:
        assert any(name.startswith("val/") for name in next(csv.DictReader(file)))
    assert OmegaConf.load(run.config).input == OmegaConf.create(asdict(before.spec.input))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_its_ranges(
    tiny: Compose, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What follows training has tests of its own.
    monkeypatch.setattr("mbv2kit.training.finish.evaluate_model", lambda *args, **options: None)
    monkeypatch.setattr("mbv2kit.evaluation.plots.learning_curves", lambda *args: None)
    keys = (*QAT, f"weights='{trained('classification').path}'", "qat.ranges_frozen_after=1.25")
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    train(tiny(whole.path, *keys))
    original = StopOnSignal.on_train_batch_end

    def stop_at_six(self: StopOnSignal, trainer: Any, *unused: Any, **named: Any) -> None:
        if trainer.global_step == 6:
            self._received = 15
        original(self, trainer, *unused, **named)

    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_train_batch_end", stop_at_six)
        train(tiny(stopped.path, *keys))
    assert not stopped.finished
    train(tiny(Path("unused"), f"resume='{stopped.path}'"))
    ours, theirs = (
        torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"] for run in (stopped, whole)
    )
    assert float(ours["int8.highest"].min()) > 0
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    files = [(run.model / "model.safetensors").read_bytes() for run in (stopped, whole)]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"qat\.enabled fine-tunes a trained model .* weights is null; name a run"),
        (["weights=x", "trainer.precision=bf16-mixed"], r"trainer\.precision=bf16-mixed is coarser .*=32-true"),
        (
            ["weights=x", "qat.norms_frozen_after=-1"],
            r"qat\.norms_frozen_after must be .* from 0 to 1,000,000, got -1",
        ),
        (["weights=x", "qat.norms_frozen_after=null"], r"qat\.norms_frozen_after must be .*, got null"),
        (
            ["weights=x", "qat.ranges_frozen_after=-0.5"],
            r"qat\.ranges_frozen_after must be .*, or null, got -0.5",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(tiny: Compose, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny(tmp_path / "run", "qat.enabled=true", *overrides))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "task", "message"),
    [
        ({"segmentation": 3}, "classification", r"weights=.* do segmentation, but task is classification"),
        ({"classification": 3}, "classification", r"The data set has classes that the model does not know: "),
    ],
)
def test_weights_of_something_else_are_refused(
    tiny: Compose, tmp_path: Path, names: dict[Task, int], task: Task, message: str
) -> None:
    build(*names).save(tmp_path / "weights")
    with pytest.raises(UserError, match=message):
        train(tiny(tmp_path / "run", *QAT, f"weights='{tmp_path / 'weights'}'", task=task))
    assert not (tmp_path / "run").exists()


def test_classes_in_another_order_are_refused(tiny: Compose, trained: Trained, tmp_path: Path) -> None:
    model = VisionModel.load(trained("classification").model)
    names = tuple(reversed(model.class_names["classification"]))
    model.spec = replace(model.spec, class_names={"classification": names})
    model.save(tmp_path / "weights")
    with pytest.raises(UserError, match=r"needs the same in the same order, so train on this data set first"):
        train(tiny(tmp_path / "run", *QAT, f"weights='{tmp_path / 'weights'}'"))
    assert not (tmp_path / "run").exists()
