from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones.mobilenet_v2 import MobileNetV2
from mbv2kit.errors import UserError
from mbv2kit.heads.classifier import Classifier
from mbv2kit.nn.layers import InvertedResidual
from tests.backbones.build import maps_of, on_meta, randomized, with_weights_of

NAME = "mobilenet_v2"

# TensorFlow's README of MobileNetV2: width, size -> million multiply-adds, million parameters (without batch norm).
PUBLISHED_COSTS = {
    (1.4, 224): (582, 6.06),
    (1.3, 224): (509, 5.34),
    (1.0, 224): (300, 3.47),
    (1.0, 192): (221, 3.47),
    (1.0, 160): (154, 3.47),
    (1.0, 128): (99, 3.47),
    (1.0, 96): (56, 3.47),
    (0.75, 224): (209, 2.61),
    (0.75, 192): (153, 2.61),
    (0.75, 160): (107, 2.61),
    (0.75, 128): (69, 2.61),
    (0.75, 96): (39, 2.61),
    (0.5, 224): (97, 1.95),
    (0.5, 192): (71, 1.95),
    (0.5, 160): (50, 1.95),
    (0.5, 128): (32, 1.95),
    (0.5, 96): (18, 1.95),
    (0.35, 224): (59, 1.66),
    (0.35, 192): (43, 1.66),
    (0.35, 160): (30, 1.66),
    (0.35, 128): (20, 1.66),
    (0.35, 96): (11, 1.66),
}
WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def norm_parameters(module: nn.Module) -> int:
    return sum(parameters(part) for part in module.modules() if isinstance(part, nn.BatchNorm2d))


@pytest.mark.parametrize("width", WIDTHS)
def test_costs_are_those_that_the_authors_published(width: float) -> None:
    backbone = on_meta(NAME, width=width)
    with torch.device("meta"):
        classifier = Classifier(backbone.feature_info, 1000)
    rows = {size: costs for (row_width, size), costs in PUBLISHED_COSTS.items() if row_width == width}
    for size, (million_madds, million_parameters) in rows.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            classifier(backbone(torch.empty(1, 3, size, size, device="meta")))
        # The README cuts fractions off.
        assert counter.get_total_flops() // 2 // 1_000_000 == million_madds
        found = parameters(backbone) + parameters(classifier) - norm_parameters(backbone)
        assert found == pytest.approx(million_parameters * 1e6, rel=0.002)


def test_the_papers_network_exactly() -> None:
    backbone = on_meta(NAME)
    with torch.device("meta"):
        classifier = Classifier(backbone.feature_info, 1000)
    assert parameters(backbone) + parameters(classifier) == 3_504_872
    with FlopCounterMode(display=False) as counter:
        classifier(backbone(torch.empty(1, 3, 224, 224, device="meta")))
    assert counter.get_total_flops() == 2 * 300_774_272


@pytest.mark.parametrize("width", [0.35, 1.0, 1.4])
def test_it_is_torchvisions_network(width: float) -> None:
    from torchvision.models import mobilenet_v2

    ours = randomized(NAME, width=width, norm_eps=1e-5)
    theirs = mobilenet_v2(width_mult=width).double().eval()
    numbers = list(ours.state_dict().values())
    names = [name for name in theirs.state_dict() if not name.startswith("classifier")]
    theirs.load_state_dict(dict(zip(names, numbers, strict=True)), strict=False)
    images = torch.randn(2, 3, 70, 101, dtype=torch.float64)
    maps = maps_of(ours, images)
    with torch.no_grad():
        current = images
        for index, layer in enumerate(theirs.features, start=1):
            current = layer(current)
            torch.testing.assert_close(maps[f"layer_{index}"], current)


@pytest.mark.parametrize("width", [0.1, 0.25, *WIDTHS])
@pytest.mark.parametrize("shrink_last", [False, True])
def test_channels_are_multiples_of_8_and_never_below_90_percent(width: float, shrink_last: bool) -> None:
    table = {"layer_1": 32, "layer_2": 16, "layer_4": 24, "layer_7": 32, "layer_11": 64, "layer_14": 96}
    table |= {"layer_17": 160, "layer_18": 320}
    found = {info.name: info.channels for info in on_meta(NAME, width=width, shrink_last=shrink_last).feature_info}
    for name, channels in table.items():
        assert found[name] % 8 == 0
        assert 0.9 * channels * width <= found[name] <= max(8, channels * width + 8)
    last = 1280 * (width if shrink_last else max(1.0, width))
    assert found["layer_19"] == pytest.approx(last, abs=4)


def test_the_map_that_ssdlite_reads_first() -> None:
    found = {info.name: (info.channels, info.stride) for info in on_meta(NAME).feature_info}
    assert found["layer_15_expansion"] == (576, 16)
    assert found["layer_18"] == (320, 32)
    assert found["layer_19"] == (1280, 32)
    assert on_meta(NAME).feature_info[-1].name == "layer_19"


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0.35},
        {"width": 1.4, "output_stride": 16},
        {"output_stride": 8, "padding": "tf_same"},
        {"width": 0.5, "padding": "tf_same", "shrink_last": True, "shortcut": "expansion"},
    ],
)
def test_the_maps_are_as_announced_for_inputs_of_any_size(options: dict[str, Any]) -> None:
    backbone = on_meta(NAME, **options)

    @settings(max_examples=6, deadline=None)
    @given(st.integers(1, 400), st.integers(1, 400))
    def check(height: int, width: int) -> None:
        maps = maps_of(backbone, torch.empty(1, 3, height, width, device="meta"))
        assert list(maps) == [info.name for info in backbone.feature_info]
        for info in backbone.feature_info:
            expected = (1, info.channels, -(-height // info.stride), -(-width // info.stride))
            assert maps[info.name].shape == expected

    check()


def test_the_block_that_loses_its_stride_keeps_the_dilation_so_far() -> None:
    def rates(output_stride: int) -> dict[str, int]:
        layers = on_meta(NAME, output_stride=output_stride).layers.items()
        blocks = {name: block for name, block in layers if isinstance(block, InvertedResidual)}
        found = {name: block.depthwise.conv.dilation[0] for name, block in blocks.items()}
        return {name: rate for name, rate in found.items() if rate > 1}

    assert rates(32) == {}
    assert rates(16) == {"layer_16": 2, "layer_17": 2, "layer_18": 2}
    at_8 = {f"layer_{k}": 2 for k in range(9, 16)} | {f"layer_{k}": 4 for k in range(16, 19)}
    assert rates(8) == at_8


@pytest.mark.parametrize(
    ("size", "output_stride", "agree"),
    [((33, 65), 32, True), ((49, 81), 16, True), ((49, 81), 32, False), ((64, 65), 32, False), ((224, 224), 32, False)],
)
def test_the_two_paddings_agree_where_every_stride_meets_odd_sizes(
    size: tuple[int, int], output_stride: int, agree: bool
) -> None:
    symmetric = randomized(NAME, width=0.35, output_stride=output_stride)
    same = with_weights_of(symmetric, NAME, width=0.35, output_stride=output_stride, padding="tf_same")
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    difference = maps_of(symmetric, images)["layer_19"] - maps_of(same, images)["layer_19"]
    assert (difference.abs().max().item() < 1e-9) == agree


def test_the_papers_network_has_ten_shortcuts() -> None:
    def count(shortcut: str, what: str) -> int:
        blocks = on_meta(NAME, shortcut=shortcut).layers.values()
        return sum(getattr(block, what) for block in blocks if isinstance(block, InvertedResidual))

    assert count("bottleneck", "adds_input") == 10
    assert count("bottleneck", "hands_on_expansion") == 0
    assert count("expansion", "hands_on_expansion") == 10
    assert count("expansion", "adds_input") == 0
    assert count("none", "adds_input") + count("none", "hands_on_expansion") == 0


def test_shortcuts_of_three_kinds_give_three_networks_of_the_same_weights() -> None:
    first = randomized(NAME, width=0.35)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    maps = [
        maps_of(with_weights_of(first, NAME, width=0.35, shortcut=kind), images)
        for kind in ("bottleneck", "expansion", "none")
    ]
    for i in range(3):
        torch.testing.assert_close(maps[i]["layer_3"], maps[0]["layer_3"])
        for j in range(i):
            assert (maps[i]["layer_19"] - maps[j]["layer_19"]).abs().max() > 0.01


def test_expansion_shortcuts_run_from_block_to_block() -> None:
    """The stage of layers 8 to 11 and the block behind it, written down once more from the weights alone."""
    backbone = randomized(NAME, width=0.35, shortcut="expansion")
    state = backbone.state_dict()

    def normal(x: Tensor, prefix: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{prefix}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    maps = maps_of(backbone, torch.randn(1, 3, 64, 80, dtype=torch.float64))
    current, carried = maps["layer_8"], None
    # Layer 12 has other channels out than in: it takes the last expansion of the stage and hands none on.
    for k in range(9, 14):
        prefix = f"layers.layer_{k}"
        wide = normal(F.conv2d(current, state[f"{prefix}.expand.conv.weight"]), f"{prefix}.expand").clamp(0, 6)
        if carried is not None:
            wide = wide + carried
        carried = None if k == 12 else wide
        depthwise = state[f"{prefix}.depthwise.conv.weight"]
        filtered = normal(F.conv2d(wide, depthwise, padding=1, groups=len(depthwise)), f"{prefix}.depthwise")
        current = normal(F.conv2d(filtered.clamp(0, 6), state[f"{prefix}.project.conv.weight"]), f"{prefix}.project")
        torch.testing.assert_close(maps[f"layer_{k}"], current)


@pytest.mark.parametrize("width", [0.1, 0.25, 0.35, 1.0])
def test_expansion_shortcuts_fit_at_every_width(width: float) -> None:
    maps = on_meta(NAME, width=width, shortcut="expansion")(torch.empty(1, 3, 64, 64, device="meta"))
    assert maps["layer_19"].shape[2:] == (2, 2)


def test_relu6_bottlenecks_have_no_negative_values() -> None:
    linear = randomized(NAME, width=0.35, shortcut="none")
    relu6 = with_weights_of(linear, NAME, width=0.35, shortcut="none", bottleneck="relu6")
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    linear_maps, relu6_maps = maps_of(linear, images), maps_of(relu6, images)
    torch.testing.assert_close(relu6_maps["layer_2"], linear_maps["layer_2"].clamp(0, 6))
    for k in range(2, 19):
        assert linear_maps[f"layer_{k}"].min() < 0
        assert relu6_maps[f"layer_{k}"].min() >= 0
        assert relu6_maps[f"layer_{k}"].max() <= 6


def test_selecting_maps_changes_none_of_them_and_drops_the_layers_behind() -> None:
    whole = randomized(NAME, width=0.35)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = maps_of(whole, images)
    part = with_weights_of(whole, NAME, width=0.35)
    part.select({"layer_15_expansion", "layer_7"})
    found = maps_of(part, images)
    assert list(found) == ["layer_7", "layer_15_expansion"]
    for name, values in found.items():
        assert torch.equal(values, expected[name])
    assert list(part.layers) == [f"layer_{k}" for k in range(1, 16)]
    assert parameters(part) < parameters(whole)


def test_selecting_an_unknown_map_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no feature map 'layer_15_expanded'\. Did you mean 'layer_15_expansion'\?"):
        on_meta(NAME).select({"layer_15_expanded"})


def test_a_fresh_block_with_a_shortcut_is_the_shortcut_alone() -> None:
    maps = maps_of(MobileNetV2(width=0.5).eval(), torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(maps["layer_6"], maps["layer_5"], rtol=0, atol=0)
    # A block that changes the shape has no shortcut, and must not be silent.
    assert maps["layer_8"].std() > 0


@pytest.mark.parametrize("options", [{"zero_init_residual": False}, {"bottleneck": "relu6"}])
def test_otherwise_every_fresh_block_adds_something(options: dict[str, Any]) -> None:
    maps = maps_of(MobileNetV2(width=0.5, **options).eval(), torch.randn(2, 3, 64, 64))
    assert not torch.equal(maps["layer_6"], maps["layer_5"])
