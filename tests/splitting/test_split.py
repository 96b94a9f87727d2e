"""Compares the split network with the plain one, and measured with planned memory."""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.heads.registry import Raw
from mbv2kit.inference import torch_models
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.splitting import SplitSession, plan_evenly, plan_memory, smallest_peak
from mbv2kit.splitting.memory_probe import MemoryProbe
from tests.splitting.models import build

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
SIZES = (96, 128, 160, 192, 224)
GROUPS = (1, 2, 3, 4, 5, 10)
# More groups than channels, which runs one channel at a time.
MOST = 10_000


def make_images(*size: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)


def difference(model: VisionModel, found: Mapping[str, Raw], images: Tensor) -> float:
    """Largest difference from the plain model's raw outputs, as a share of the largest one where that is above 1."""
    with torch.no_grad():
        plain = model(images)
    return max(
        float((raw[name] - value).abs().max() / value.abs().max().clamp(min=1))
        for task, raw in found.items()
        for name, value in plain[task].items()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("row", "width"), list(enumerate(WIDTHS)))
def test_a_split_network_computes_the_same_in_the_planned_memory(row: int, width: float) -> None:
    model = build(width=width)
    # Every width meets every size and every number of groups, and every size every number of groups.
    cases = [(SIZES[(row + column) % len(SIZES)], groups) for column, groups in enumerate(GROUPS)]
    for size, groups in [*cases, (SIZES[0], MOST)]:
        plan = plan_evenly(model, (size, size), groups)
        split = SplitSession(model, plan)
        images = make_images(size, size)
        found, peak = split.measure(images)
        assert difference(model, found, images) < 1e-5, (size, groups)
        assert peak == plan.peak, (size, groups)


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("size", [(96, 96), (97, 97), (130, 95), (95, 130)])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.0])
def test_bands_and_groups_are_exact_in_double_precision(padding: str, size: tuple[int, int], share: float) -> None:
    model = build(padding=padding, width=0.5)
    least = smallest_peak(model, size)
    most = plan_evenly(model, size, 1).peak
    plan = plan_memory(model, size, int(least + share * (most - least)))
    assert share > 0 or plan.recomputed > 0
    split = SplitSession(model.double(), plan)
    images = make_images(*size)
    assert difference(model, split.compute(images), images) < 1e-12


@pytest.mark.parametrize(
    ("task", "head", "backbone"),
    [
        ("classification", {"name": "classifier", "background": True}, {"bottleneck": "relu6"}),
        ("classification", {"name": "classifier"}, {"shortcut": "none", "width": 0.35}),
        ("detection", {"name": "ssdlite"}, {"width": 0.5}),
        ("detection", {"name": "ssdlite", "maps": ["layer_8_expansion", "layer_15_expansion"]}, {"width": 0.35}),
        ("segmentation", {"name": "deeplab_v3"}, {"width": 0.5, "output_stride": 16}),
        ("segmentation", {"name": "deeplab_v3", "aspp": True, "channels": 32}, {"width": 0.5, "output_stride": 8}),
        ("segmentation", {"name": "deeplab_v3", "feature": "layer_14"}, {"width": 0.5}),
    ],
)
def test_every_head_runs_in_the_planned_memory(task: Any, head: dict[str, Any], backbone: dict[str, Any]) -> None:
    size = (97, 129)
    model = build(task, head, **backbone)
    least = smallest_peak(model, size)
    even = plan_evenly(model, size, 3)
    for plan in (even, plan_memory(model, size, least), plan_memory(model, size, (least + even.peak) // 2)):
        split = SplitSession(model, plan)
        images = make_images(*size)
        assert split.measure(images)[1] == plan.peak
        exact = deepcopy(model).double()
        assert difference(exact, SplitSession(exact, plan).compute(images), images) < 1e-12


@pytest.mark.parametrize("width", [0.35, 1.0])
def test_a_plan_fits_its_budget_and_a_larger_budget_recomputes_less(width: float) -> None:
    model = build(width=width, classes=1000)
    least = smallest_peak(model, (224, 224))
    recomputed = []
    for budget in (least, int(1.2 * least), 2 * least, 4 * least, 100 * least):
        plan = plan_memory(model, (224, 224), budget)
        assert plan.peak <= budget
        recomputed.append(plan.recomputed)
    assert recomputed == sorted(recomputed, reverse=True)
    assert recomputed[-1] == 0
    assert all(segment.groups == (1,) for segment in plan.segments)
    with pytest.raises(UserError, match=re.escape(f"no plan needs fewer than {least:,}")):
        plan_memory(model, (224, 224), least - 1)


def test_the_last_convolution_is_split_although_the_head_reads_all_of_its_channels() -> None:
    model = build(classes=100_000, width=0.35)
    size = (448, 448)
    plan = plan_memory(model, size, 1_600_000)
    assert plan.last_groups > 1
    assert plan.last_peak <= 1_600_000 < plan_evenly(model, size, 1).last_peak
    assert SplitSession(model, plan).measure(make_images(*size))[1] == plan.peak


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1_000_000, 512_000, 400_000])
def test_mobilenet_v2_at_224_runs_within(budget: int) -> None:
    model = build(classes=1000)
    plan = plan_memory(model, (224, 224), budget)
    split = SplitSession(model, plan)
    images = make_images(224, 224)
    assert split.measure(images)[1] == plan.peak <= budget
    assert difference(model, split.compute(images), images) < 1e-5
    assert plan.recomputed < 0.05


def test_8_bit_activations_need_less_and_256_kb_are_enough() -> None:
    model = build(classes=1000)
    assert plan_memory(model, (224, 224), 256_000, torch.int8).peak <= 256_000
    assert smallest_peak(model, (224, 224)) > 256_000
    even = [plan_evenly(model, (224, 224), 1, dtype).peak for dtype in (torch.float32, torch.float16, torch.int8)]
    image = 3 * 224 * 224
    # Without the image, which is always in bytes.
    assert (even[0] - image) == 2 * (even[1] - image) == 4 * (even[2] - image)


def test_the_plain_network_needs_what_is_counted_by_hand() -> None:
    model = build(classes=1000)
    images = make_images(224, 224)
    with torch.no_grad(), MemoryProbe([images]) as probe:
        model(images)
    block_2 = 4 * 112 * 112 * (16 + 96 + 96)
    make_image = 3 * 224 * 224
    assert probe.peak == block_2 + make_image + 4 * make_image


def test_several_images_run_one_by_one() -> None:
    model = build()
    split = SplitSession(model, plan_evenly(model, (96, 96), 4))
    images = [make_image.permute(1, 2, 0).numpy() for make_image in make_images(80, 120).repeat(3, 1, 1, 1)]
    ours, theirs = torch_models.split(model, split).predict(images), as_trained(model).predict(images)
    assert [one.class_ids.tolist() for one in ours] == [one.class_ids.tolist() for one in theirs]


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(UserError, match="Only mobilenet_v2 can run within a memory budget"):
        plan_evenly(VisionModel(replace(build().spec, backbone={"name": "mobilenet_v1"})), (96, 96), 2)
    with pytest.raises(UserError, match="shortcut 'expansion'"):
        plan_evenly(build(shortcut="expansion"), (96, 96), 2)
    model = build()
    plan = plan_evenly(model, (96, 96), 2)
    with pytest.raises(UserError, match=r"The plan is for \(96, 96\) pixels, got \(97, 96\)"):
        SplitSession(model, plan).compute(make_images(97, 96))
    with pytest.raises(UserError, match="only float32 plans can be run"):
        SplitSession(model, plan_evenly(model, (96, 96), 2, torch.int8))
    with pytest.raises(UserError, match="dtype must be one of"):
        plan_memory(model, (96, 96), 10**9, torch.int64)
