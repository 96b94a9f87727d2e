"""Simulated int8 is what an int8 file computes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.backbones import list_backbones
from mbv2kit.exporting.onnx import export_onnx
from mbv2kit.heads import Head
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.export_network import ExportNetwork, fold_norms
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task
from mbv2kit.training.qat_simulation import FORGETTING, Int8Simulation, round_weights
from tests.norms import randomize_norms

HEADS: dict[Task, dict[str, Any]] = {
    "classification": {"name": "classifier", "dropout": 0.0},
    "detection": {"name": "ssdlite"},
    "segmentation": {"name": "deeplab_v3", "channels": 16, "dropout": 0.0},
}


def build(
    *tasks: Task,
    size: int = 64,
    head: Mapping[str, Any] | None = None,
    std: tuple[float, float, float] = (60.0, 90.0, 120.0),
    output_stride: int = 32,
) -> VisionModel:
    """A small model in evaluation mode whose numbers were all drawn."""
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35, "output_stride": output_stride},
        heads={task: {**HEADS[task], **(head or {})} for task in tasks},
        class_names=dict.fromkeys(tasks, ("a", "b", "c")),
        input=Preprocess((size, size), "stretch"),
        std=std,
    )
    model = VisionModel(spec).eval()
    randomize_norms(model)
    return model


def draw(count: int, size: int = 64) -> Tensor:
    """Images with large patches, of which a network sees more than of noise."""
    coarse = torch.randint(0, 256, (count, 3, 4, 4)).float()
    return F.interpolate(coarse, (size, size), mode="bilinear").to(torch.uint8)


def simulated(model: VisionModel, images: Tensor) -> tuple[VisionModel, Int8Simulation]:
    """A copy of a model, calibrated on images, that simulates int8."""
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
        # 12 convolutions read no image but 6 maps each twice, once in depthwise and once in pointwise form; 8 + 4
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
        input=Preprocess((64, 64), "stretch"),
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
def test_it_is_what_the_int8_file_computes(tmp_path: Path) -> None:
    """ONNX Runtime's whole numbers are far closer to the simulation than to the float model.

    Few layers only, since one activation in a thousand lies so near to the middle of two levels that the order of a sum
    decides, and in a network of random numbers every layer makes more of that.
    """
    model, images = build("detection", head={"maps": ["layer_2", "layer_3"]}, std=(64.0,) * 3), draw(8)
    # With weights as they are saved there is no bias that an export could correct.
    round_weights(model)
    network = ExportNetwork(model).eval()
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    export_onnx(network, tmp_path / "int8.onnx", batch=8, precision="int8", calibration=list(arrays))
    session = onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    whole = dict(zip(network.output_names, session.run(None, {"images": arrays}), strict=True))
    copy, _ = simulated(model, images)
    exact, rounded = (_outputs(each, images) for each in (model, copy))
    for name in ("boxes", "scores"):
        error, left = (np.abs(whole[name] - outputs[name]).mean() for outputs in (exact, rounded))
        assert 0 < left < 0.2 * error, name


@torch.no_grad()
def _outputs(model: VisionModel, images: Tensor) -> dict[str, Any]:
    head = model.heads["detection"]
    assert isinstance(head, Head)
    outputs = head.outputs(model(images)["detection"], model.preprocess.size)
    return {name: value.numpy() for name, value in outputs.items()}


@torch.no_grad()
@pytest.mark.parametrize("order", [("segmentation",), ("detection",), ("segmentation", "detection", "classification")])
def test_a_head_finds_its_ranges_where_others_are_left_out(order: tuple[Task, ...]) -> None:
    images = draw(4)
    model, simulation = simulated(build("classification", "detection", "segmentation"), images)
    every = model(images)
    some = model(images, dict.fromkeys(order))
    for task in order:
        for name, value in some[task].items():
            assert torch.equal(value, every[task][name]), (task, name)
    # What is seen moves the ranges of the heads that ran, and of no other.
    before = simulation.highest.clone()
    simulation.train()
    model(images // 2, {"segmentation": None})
    moved = (simulation.highest != before).nonzero().flatten()
    assert set(range(*_of_head(simulation, "detection"))).isdisjoint(moved.tolist())
    assert set(range(*_of_head(simulation, "classification"))).isdisjoint(moved.tolist())
    assert len(moved)


def _of_head(simulation: Int8Simulation, task: Task) -> tuple[int, int]:
    """The first activation of a head, and that of the next head."""
    begin = simulation._starts[task][1]
    return begin, min(first for _, first in simulation._starts.values() if first > begin)
