"""Simulated int8 is what an int8 file computes, it can be learnt, and what is left of it is an ordinary model."""

import csv
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.backbones import list_backbones
from mbv2kit.errors import UserError
from mbv2kit.export import onnx_bias
from mbv2kit.export.onnx import export_onnx
from mbv2kit.inputs import InputRule
from mbv2kit.layers import InvertedResidual
from mbv2kit.model import VisionModel
from mbv2kit.network import ExportNetwork, fold_norms
from mbv2kit.runs import RunFolder
from mbv2kit.spec import ModelSpec
from mbv2kit.structures import Task
from mbv2kit.training.callbacks import StopOnSignal
from mbv2kit.training.qat import QatOptions, QuantisationAwareness
from mbv2kit.training.qat_simulation import FORGETTING, Int8Simulation, round_weights
from mbv2kit.training.run import train
from tests.norms import randomise_norms

Compose = Callable[..., DictConfig]
Trained = Callable[[str], RunFolder]

HEADS: dict[Task, dict[str, Any]] = {
    "classification": {"name": "classifier", "dropout": 0.0},
    "detection": {"name": "ssdlite"},
    "segmentation": {"name": "deeplab_v3", "channels": 16, "dropout": 0.0},
}


def build(*tasks: Task, size: int = 64, **backbone: Any) -> VisionModel:
    """A small model in evaluation mode whose numbers were all drawn."""
    options = {"name": "mobilenet_v2", "width": 0.35, **backbone}
    spec = ModelSpec(
        backbone=options,
        heads={task: HEADS[task] for task in tasks},
        class_names={task: ("a", "b", "c") for task in tasks},
        input=InputRule((size, size), "stretch"),
        mean=(120.0, 130.0, 140.0),
        std=(60.0, 90.0, 120.0),
    )
    model = VisionModel(spec).eval()
    randomise_norms(model)
    return model


def draw(count: int, size: int = 64) -> Tensor:
    """Pictures with large patches, of which a network sees more than of noise."""
    coarse = torch.randint(0, 256, (count, 3, 4, 4)).float()
    return F.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)


def simulated(model: VisionModel, images: Tensor) -> tuple[VisionModel, Int8Simulation]:
    """A copy of a model, calibrated on pictures, that simulates int8."""
    copy = VisionModel(model.spec).eval()
    copy.load_state_dict(model.state_dict())
    simulation = Int8Simulation(copy).eval()
    simulation.attach(copy)
    simulation.calibrate(copy, [images])
    return copy, simulation


@torch.no_grad()
def see(model: VisionModel, images: Tensor) -> dict[str, Tensor]:
    return {f"{task}/{name}": value for task, raw in model(images).items() for name, value in raw.items()}


def round_by_hand(weight: Tensor) -> Tensor:
    """Each output channel in multiples of 1/127 of its greatest weight."""
    values = weight.double().numpy()
    scale = np.abs(values).reshape(len(values), -1).max(axis=1).reshape(-1, *[1] * (values.ndim - 1)) / 127
    return torch.from_numpy(np.rint(values / scale) * scale).float()


# What is simulated.


def test_a_weight_becomes_a_whole_multiple_of_its_channels_scale() -> None:
    model = build("classification")
    before = {name: part.weight.detach().clone() for name, part in model.named_modules() if _has_weights(part)}
    round_weights(model)
    first = "backbone.layers.layer_1.conv"
    after = {name: part.weight for name, part in model.named_modules() if _has_weights(part)}
    assert len(before) == 53
    std = model.std
    torch.testing.assert_close(after[first], round_by_hand(before[first] / std) * std)
    for name in set(before) - {first}:
        torch.testing.assert_close(after[name], round_by_hand(before[name]))


def _has_weights(part: nn.Module) -> bool:
    return isinstance(part, nn.Conv2d | nn.Linear)


def test_rounded_weights_stay_where_they_are_also_once_norms_are_folded() -> None:
    """An export that looks for a grid of its own finds this one, so it changes no weight."""
    model = build("classification")
    round_weights(model)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    round_weights(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name])
    fold_norms(model.backbone)
    for name, part in model.backbone.named_modules():
        if isinstance(part, nn.Conv2d) and name != "layers.layer_1.conv":
            torch.testing.assert_close(part.weight, round_by_hand(part.weight.detach()))


@pytest.mark.parametrize(
    ("tasks", "activations", "last"),
    [
        # 51 inputs of convolutions but the first, 2 of each of 10 sums, 1 of the pooling, 1 of the linear layer.
        (["classification"], 73, 0),
        # 12 convolutions read no picture but 6 maps each twice, once in depthwise and once in pointwise form; 8 + 4
        # in the extra maps; and the 12 that predict are rounded themselves.
        (["detection"], 71 + 4 * 3 + 6 * 2 * 2 + 12, 12),
        # Without layer 19: pooling and its branch, the other branch, two joined, the layer that joins, the last one
        # and its output.
        (["segmentation"], 70 + 1 + 1 + 1 + 2 + 1 + 1 + 1, 1),
    ],
)
def test_rounded_is_what_layers_sums_and_averages_read_and_what_the_last_layers_give(
    tasks: list[Task], activations: int, last: int
) -> None:
    simulation = Int8Simulation(build(*tasks))
    assert len(simulation.lowest) == len(simulation.highest) == activations
    assert len(simulation._last) == last


@pytest.mark.parametrize("name", list_backbones())
def test_every_backbone_is_surveyed_without_its_weights_being_looked_at(name: str) -> None:
    spec = ModelSpec(
        backbone={"name": name},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": ("a", "b")},
        input=InputRule((64, 64), "stretch"),
    )
    with torch.device("meta"):
        model = VisionModel(spec)
    layers = sum(_has_weights(part) for part in model.modules())
    simulation = Int8Simulation(model)
    # Every layer but the first reads a rounded map; the average before the classifier does too.
    assert len(simulation.lowest) >= layers
    assert not simulation._last


def test_ranges_hold_zero_grow_at_once_and_draw_in_slowly() -> None:
    model = build("classification")
    simulation = Int8Simulation(model)

    def observe(*values: float) -> tuple[float, float]:
        simulation._round_activation(torch.tensor(values), 5)
        return float(simulation.lowest[5]), float(simulation.highest[5])

    assert observe(1.0, 3.0) == (0.0, 3.0)
    assert observe(-2.0, 5.0) == (-2.0, 5.0)
    assert observe(0.5, 1.0) == pytest.approx((-2.0 + 2.5 * FORGETTING, 5.0 - 4.0 * FORGETTING))
    simulation.observes = False
    before = observe(-50.0, 50.0)
    simulation.observes = True
    assert before == pytest.approx((-2.0 + 2.5 * FORGETTING, 5.0 - 4.0 * FORGETTING))
    simulation.eval()
    assert observe(-50.0, 50.0) == before
    assert float(simulation.highest[4]) == 0.0


def test_an_activation_lies_on_256_levels_and_is_cut_off_at_the_ends() -> None:
    simulation = Int8Simulation(build("classification")).eval()
    simulation.lowest[0], simulation.highest[0] = -1.0, 4.1
    value = torch.tensor([-9.0, -1.0, -0.009, 0.0, 0.011, 4.1, 9.0], requires_grad=True)
    rounded = simulation._round_activation(value, 0)
    torch.testing.assert_close(rounded, torch.tensor([-1.0, -1.0, 0.0, 0.0, 0.02, 4.1, 4.1]))
    rounded.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(value.grad, torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]))


def test_anchors_are_not_rounded_and_nothing_else_is_outside_of_a_pass() -> None:
    model, images = build("detection"), draw(2)
    copy, simulation = simulated(model, images)
    exact, rounded = see(model, images), see(copy, images)
    assert torch.equal(exact["detection/anchors"], rounded["detection/anchors"])
    assert not torch.equal(exact["detection/class_logits"], rounded["detection/class_logits"])
    before = simulation.highest.clone()
    # A pass that fails leaves nothing behind.
    with pytest.raises(RuntimeError):
        copy(torch.zeros(1, 4, 64, 64, dtype=torch.uint8))
    maps = torch.rand(1, 2, 3, 3)
    assert torch.equal(maps + maps, 2 * maps)
    assert torch.equal(simulation.highest, before)
    assert torch.equal(see(copy, images)["detection/class_logits"], rounded["detection/class_logits"])


def test_training_mode_rounds_the_same_where_dilated_convolutions_run_by_phases() -> None:
    model, images = build("segmentation", size=129, output_stride=8), draw(1, 129)
    copy, simulation = simulated(model, images)
    expected = see(copy, images)["segmentation/logits"]
    simulation.observes = False
    for part in copy.modules():
        part.training = not isinstance(part, nn.BatchNorm2d)
    torch.testing.assert_close(see(copy, images)["segmentation/logits"], expected)


@pytest.mark.slow
def test_it_is_what_the_int8_file_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On all tasks: ONNX Runtime's whole numbers are several times closer to the simulation than to the float model."""
    model, images = build("classification", "detection", "segmentation"), draw(8)
    # It takes back what rounding does, which is just what is compared here.
    monkeypatch.setattr(onnx_bias, "correct_biases", lambda *_: None)
    network = ExportNetwork(model).eval()
    pictures = images.permute(0, 2, 3, 1).contiguous().numpy()
    export_onnx(network, tmp_path / "int8.onnx", batch=8, precision="int8", calibration=list(pictures))
    session = onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    whole = dict(zip(network.outputs, session.run(None, {"images": pictures}), strict=True))
    copy, _ = simulated(model, images)
    exact, rounded = (_answers(each, images) for each in (model, copy))
    for name in network.outputs:
        error = np.abs(whole[name].astype(float) - exact[name]).mean()
        left = np.abs(whole[name].astype(float) - rounded[name]).mean()
        assert left < 0.4 * error, name


@torch.no_grad()
def _answers(model: VisionModel, images: Tensor) -> dict[str, Any]:
    raw, answers = model(images), {}
    for task, head in model.heads.items():
        answers.update(head.answer(raw[task], model.input.size))  # type: ignore[operator]
    return {name: value.double().numpy() for name, value in answers.items()}


# What is learnt.


@torch.no_grad()
def damage(model: VisionModel, octaves: int) -> None:
    """Gives the channels of every bottleneck scales far apart, and their readers the inverse: the function stays."""
    scales: Tensor | None = None
    for layer in model.backbone.layers.values():
        if not isinstance(layer, InvertedResidual):
            if scales is not None:
                layer.conv.weight.div_(scales.view(1, -1, 1, 1))  # type: ignore[union-attr, operator]
            continue
        if scales is not None:
            layer.expand.conv.weight.div_(scales.view(1, -1, 1, 1))  # type: ignore[union-attr, operator]
        if not layer.adds_input:
            channels = layer.project.norm.num_features
            scales = 2.0 ** torch.randint(-octaves, octaves + 1, (channels,))
        assert scales is not None
        layer.project.norm.weight.mul_(scales)
        layer.project.norm.bias.mul_(scales)


def test_a_network_that_int8_harms_learns_to_bear_it() -> None:
    """What the rounding does to the logits shrinks, and a fresh calibration of the saved weights keeps it small."""
    model, images = build("classification", size=32), draw(16, 32)
    wanted = see(model, images)["classification/logits"]
    damage(model, octaves=4)
    torch.testing.assert_close(see(model, images)["classification/logits"], wanted, atol=1e-3, rtol=1e-3)

    def error(model: VisionModel) -> float:
        return float((see(model, images)["classification/logits"] - wanted).square().mean())

    copy, simulation = simulated(model, images)
    before = error(copy)
    optimizer = torch.optim.Adam(copy.parameters(), lr=1e-3)
    simulation.train()
    for _ in range(40):
        optimizer.zero_grad()
        (copy(images)["classification"]["logits"] - wanted).square().mean().backward()
        optimizer.step()
    round_weights(copy)
    saved = VisionModel(copy.spec).eval()
    saved.load_state_dict(copy.state_dict())
    assert error(simulated(saved, images)[0]) < 0.2 * before


def test_every_weight_gets_a_gradient_through_the_rounding() -> None:
    model = build("classification", "detection", "segmentation")
    copy, _ = simulated(model, draw(2))
    sum(value.square().mean() for raw in copy(draw(2)).values() for value in raw.values()).backward()
    for name, parameter in copy.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any() or name.endswith("bias"), name


def test_norms_and_ranges_are_frozen_from_their_steps_on() -> None:
    model = build("classification")
    int8 = QuantisationAwareness(model, QatOptions(enabled=True, norms_frozen_after=0.5, ranges_frozen_after=1.5), 4)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for step in range(8):
        # The trainer puts all in training mode now and then.
        model.train()
        int8.begin_step(step)
        assert all(norm.training == (step < 2) for norm in norms)
        assert int8.observes == (step < 6)
    int8 = QuantisationAwareness(model.train(), QatOptions(enabled=True), 4)
    int8.begin_step(0)
    assert not any(norm.training for norm in norms)
    int8.begin_step(10**6)
    assert int8.observes


# Runs.

QAT = ("qat.enabled=true", "optimizer.lr=0.001", "scheduler.warmup_epochs=0", "export=false")


@pytest.mark.parametrize("task", ["classification", pytest.param("detection", marks=pytest.mark.slow)])
def test_a_run_leaves_an_ordinary_model_on_the_grid(tiny: Compose, trained: Trained, tmp_path: Path, task: str) -> None:
    start = trained(task)
    run = RunFolder(tmp_path / "run")
    # Input and head are those of the weights, whatever the keys say.
    train(tiny(run.path, *QAT, f"weights='{start.path}'", "input.fill=3", "trainer.max_epochs=1", task=task))
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
    assert OmegaConf.load(run.config).input == OmegaConf.create(asdict(before.input))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_its_ranges(
    tiny: Compose, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        (["weights=x", "qat.norms_frozen_after=-1"], r"qat\.norms_frozen_after must be a number of epochs from 0 up"),
        (["weights=x", "qat.norms_frozen_after=null"], r"qat\.norms_frozen_after must be .*, got None"),
        (["weights=x", "qat.ranges_frozen_after=-0.5"], r"qat\.ranges_frozen_after must be a number of epochs"),
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


def test_classes_in_another_order_are_refused(
    tiny: Compose, trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = VisionModel.load(trained("classification").model)
    names = tuple(reversed(model.class_names["classification"]))
    model.spec = replace(model.spec, class_names={"classification": names})
    model.save(tmp_path / "weights")
    with pytest.raises(UserError, match=r"needs the same in the same order, so train on this data set first"):
        train(tiny(tmp_path / "run", *QAT, f"weights='{tmp_path / 'weights'}'"))
    assert not (tmp_path / "run").exists()
