from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.backbones import create_backbone
from mbv2kit.errors import UserError
from mbv2kit.heads.deeplab_v3 import DeepLabV3
from tests.backbones.build import maps_of, on_meta, randomized
from tests.counting import count

NAME = "resnet_101_beta"

UNITS = {1: 3, 2: 4, 3: 23, 4: 3}
NAMES = ["stem", *(f"stage_{stage}_{unit}" for stage, units in UNITS.items() for unit in range(1, units + 1))]


def deeplab(output_stride: int, **options: Any) -> nn.Sequential:
    backbone = on_meta(NAME, output_stride=output_stride, **options)
    with torch.device("meta"):
        return nn.Sequential(backbone, DeepLabV3(backbone.feature_info, 21, aspp=True, feature="last"))


def test_deeplab_with_it_costs_what_the_paper_says() -> None:
    """Table 7: 58.16 M parameters; 81.0 B multiply-adds hold 76.05 B and the padding of atrous convolutions."""
    assert count(deeplab(16), 513) == (58_164_437, 76_052_470_720)


def test_at_six_scales_and_their_mirror_images_it_costs_what_was_counted() -> None:
    fine = deeplab(8)
    madds = 2 * sum(count(fine, side)[1] for side in (257, 385, 513, 641, 769, 897))
    assert madds / 1e9 == pytest.approx(4353.78, abs=0.005)


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_the_maps_are_the_outputs_of_all_units(output_stride: int) -> None:
    info = on_meta(NAME, output_stride=output_stride).feature_info
    assert [feature.name for feature in info] == NAMES
    assert [feature.channels for feature in info] == [128] + [256] * 3 + [512] * 4 + [1024] * 23 + [2048] * 3
    strides = [4] * 3 + [8] * 4 + [16] * 23 + [32] * 4
    assert [feature.stride for feature in info] == [min(stride, output_stride) for stride in strides]


@pytest.mark.parametrize(
    ("output_stride", "stage_3", "stage_4"), [(32, 1, [1, 2, 4]), (16, 1, [2, 4, 8]), (8, 2, [4, 8, 16])]
)
def test_it_is_the_network_written_down_once_more(output_stride: int, stage_3: int, stage_4: list[int]) -> None:
    backbone = randomized(NAME, output_stride=output_stride)
    state = backbone.state_dict()

    def convolve(x: Tensor, conv: str, norm: str, stride: int = 1, rate: int = 1) -> Tensor:
        weight = state[f"layers.{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=rate * (weight.shape[2] // 2), dilation=rate)
        mean, variance, scale, bias = (
            state[f"layers.{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, bias, eps=1e-5)

    images = torch.randn(1, 3, 49, 70, dtype=torch.float64)
    maps = maps_of(backbone, images)
    current = images
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        current = convolve(current, f"stem.conv_{number}.conv", f"stem.conv_{number}.norm", stride).relu()
    current = F.max_pool2d(current, 3, 2, padding=1)
    torch.testing.assert_close(maps["stem"], current)
    reached = 4
    for name, rate in zip(NAMES[1:], [1] * 7 + [stage_3] * 23 + stage_4, strict=True):
        stage, unit = map(int, name.split("_")[1:])
        stride = 2 if unit == UNITS[stage] and stage < 4 and reached < output_stride else 1
        reached *= stride
        inner = convolve(current, f"{name}.conv1", f"{name}.bn1").relu()
        inner = convolve(inner, f"{name}.conv2", f"{name}.bn2", stride, rate).relu()
        inner = convolve(inner, f"{name}.conv3", f"{name}.bn3")
        if unit == 1:
            current = convolve(current, f"{name}.downsample.conv", f"{name}.downsample.norm")
        current = (current[:, :, ::stride, ::stride] + inner).relu()
        assert current.std() > 0.1
        torch.testing.assert_close(maps[name], current)


def test_the_rates_of_the_last_stage_can_be_chosen_without_changing_the_size() -> None:
    backbone = on_meta(NAME, output_stride=16, multi_grid=[1, 1, 1])
    rates = {name: part.dilation for name, part in backbone.named_modules() if isinstance(part, nn.Conv2d)}
    assert [rates[f"layers.stage_4_{unit}.conv2"] for unit in (1, 2, 3)] == [(2, 2)] * 3
    parameters, madds = count(deeplab(16, multi_grid=[1, 1, 1]), 513)
    assert (parameters, madds) == (58_164_437, 76_052_470_720)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.5}, r"^backbone 'resnet_101_beta' has no option 'width'"),
        (
            {"output_stride": 4},
            r"^backbone 'resnet_101_beta': output_stride must be .* 8, 16, 32, got 4\.",
        ),
        (
            {"multi_grid": [1, 2]},
            r"^backbone 'resnet_101_beta': multi_grid must be a list of 3, each .* from 1 to 1,000, got \[1, 2\]\.",
        ),
        (
            {"multi_grid": [1, 0, 1]},
            r"^backbone 'resnet_101_beta': multi_grid must be a list of 3, each .* from 1 to 1,000, got \[1, 0, 1\]\.",
        ),
        (
            {"multi_grid": [1, 1.5, 2]},
            r"^backbone 'resnet_101_beta': multi_grid must be a list of 3, .*, got \[1, 1\.5, 2\]\.",
        ),
        ({"multi_grid": None}, r"^backbone 'resnet_101_beta': multi_grid must be a list of 3, .*, got null\."),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone("resnet_101_beta", **options)
