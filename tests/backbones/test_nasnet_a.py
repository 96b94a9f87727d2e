from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.backbones import create_backbone
from mbv2kit.backbones.nasnet_a import NORMAL_CELL, REDUCTION_CELL, Cell, Halving, NASNetA
from mbv2kit.errors import UserError
from mbv2kit.heads.classifier import Classifier
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import ConvStyle, Padding
from tests.backbones.build import on_meta
from tests.counting import count
from tests.norms import randomize_norms

NAME = "nasnet_a"

EPS = 1e-3
SMALL: dict[str, Any] = {"cells": 1, "penultimate_filters": 96}


def randomized_cell(*arguments: Any) -> Cell:
    cell = Cell(*arguments).double().eval()
    randomize_norms(cell)
    return cell


def test_the_mobile_network_costs_what_the_paper_says() -> None:
    """NASNet-A (4 @ 1056): 5.3 M parameters, 564 M multiply-adds."""
    backbone = on_meta(NAME)
    with torch.device("meta"):
        classifier = Classifier(backbone.feature_info, 1000)
    assert count(nn.Sequential(backbone, classifier), 224) == (5_289_978, 563_638_816)


def test_the_maps_are_the_outputs_of_all_cells() -> None:
    info = [(feature.name, feature.channels, feature.stride) for feature in on_meta(NAME).feature_info]
    assert info == [
        ("conv", 32, 2),
        ("stem_cell_1", 44, 4),
        ("stem_cell_2", 88, 8),
        *((f"cell_{number}", 264, 8) for number in (1, 2, 3, 4)),
        ("reduction_cell_1", 352, 16),
        *((f"cell_{number}", 528, 16) for number in (5, 6, 7, 8)),
        ("reduction_cell_2", 704, 32),
        *((f"cell_{number}", 1056, 32) for number in (9, 10, 11, 12)),
    ]


def test_the_names_of_the_paper_give_number_and_width_of_the_cells() -> None:
    info = on_meta(NAME, cells=7, penultimate_filters=1920).feature_info
    assert [feature.name for feature in info if feature.stride == 16][-1] == "cell_14"
    assert (info[-1].name, info[-1].channels) == ("cell_21", 1920)


def test_at_multiples_of_32_maps_have_the_usual_size() -> None:
    backbone = on_meta(NAME, **SMALL)
    maps = backbone(torch.empty(1, 3, 320, 96, device="meta"))
    for info in backbone.feature_info[1:]:
        assert maps[info.name].shape[2:] == (320 // info.stride, 96 // info.stride)


class Reference:
    """Figure 4 written down once more, on the numbers of a cell."""

    def __init__(self, cell: Cell, padding: Padding) -> None:
        self.state = cell.state_dict()
        self.padding = padding

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=EPS)

    def entry(self, x: Tensor, name: str) -> Tensor:
        return self.norm(F.conv2d(x.relu(), self.state[f"{name}.1.weight"]), f"{name}.2")

    def surrounded(self, x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
        """Pads so that a window lies around every stride-th pixel, or where TensorFlow's SAME puts it."""
        around: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            missing = kernel - 1
            before = missing // 2
            if self.padding == "tf_same" and stride == 2 and side % 2 == 0:
                missing, before = kernel - 2, (kernel - 2) // 2
            around += [before, missing - before]
        return F.pad(x, around, value=value)

    def separable(self, x: Tensor, step: int, kernel: int, stride: int = 1) -> Tensor:
        for first in (0, 4):
            x = self.surrounded(x.relu(), kernel, stride)
            depthwise = self.state[f"steps.{step}.{first + 1}.weight"]
            assert depthwise.shape[2:] == (kernel, kernel)
            x = F.conv2d(x, depthwise, stride=stride, groups=x.shape[1])
            x = F.conv2d(x, self.state[f"steps.{step}.{first + 2}.weight"])
            x = self.norm(x, f"steps.{step}.{first + 3}")
            stride = 1
        return x

    def windows(self, x: Tensor, stride: int, value: float) -> Tensor:
        """``(B, C, H, W, 9)``: the pixels that a pooling sees."""
        padded = self.surrounded(x, 3, stride, value)
        return padded.unfold(2, 3, stride).unfold(3, 3, stride).flatten(4)

    def average(self, x: Tensor, stride: int = 1) -> Tensor:
        return self.windows(x, stride, float("nan")).nanmean(dim=-1)

    def maximum(self, x: Tensor, stride: int = 1) -> Tensor:
        return self.windows(x, stride, float("-inf")).amax(dim=-1)


@pytest.mark.parametrize("size", [(7, 9), (8, 5), (6, 12)])
def test_a_normal_cell_is_figure_4_written_down_once_more(size: tuple[int, int]) -> None:
    maps = FeatureInfo("current", 7, 8), FeatureInfo("previous", 5, 8)
    cell = randomized_cell(NORMAL_CELL, *maps, 4, ConvStyle())
    current, previous = (torch.randn(2, info.channels, *size, dtype=torch.float64) for info in maps)
    own = Reference(cell, "symmetric")
    h = own.entry(current, "current")
    g = own.entry(previous, "previous")
    expected = torch.cat(
        [
            g,
            own.separable(h, 0, 5) + own.separable(g, 1, 3),
            own.separable(g, 2, 5) + own.separable(g, 3, 3),
            own.average(h) + g,
            2 * own.average(g),
            own.separable(h, 8, 3) + h,
        ],
        dim=1,
    )
    with torch.no_grad():
        torch.testing.assert_close(cell(current, previous), expected)


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("size", [(7, 9), (8, 5), (6, 12)])
def test_a_reduction_cell_is_figure_4_written_down_once_more(size: tuple[int, int], padding: Padding) -> None:
    maps = FeatureInfo("current", 7, 8), FeatureInfo("previous", 5, 8)
    cell = randomized_cell(REDUCTION_CELL, *maps, 4, ConvStyle(padding))
    current, previous = (torch.randn(2, info.channels, *size, dtype=torch.float64) for info in maps)
    own = Reference(cell, padding)
    h = own.entry(current, "current")
    g = own.entry(previous, "previous")
    first = own.separable(h, 0, 5, stride=2) + own.separable(g, 1, 7, stride=2)
    second = own.maximum(h, stride=2) + own.separable(g, 3, 7, stride=2)
    third = own.average(h, stride=2) + own.separable(g, 5, 5, stride=2)
    fourth = second + own.average(first)
    fifth = own.separable(first, 8, 3) + own.maximum(h, stride=2)
    with torch.no_grad():
        torch.testing.assert_close(cell(current, previous), torch.cat([second, third, fourth, fifth], dim=1))


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 2)])
@pytest.mark.parametrize("channels", [6, 7])
def test_halving_sees_the_even_pixels_and_the_odd_ones(size: tuple[int, int], channels: int) -> None:
    part = Halving(3, channels, ConvStyle()).double().eval()
    randomize_norms(part)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    seen = images.relu()
    even = seen[:, :, ::2, ::2]
    odd = torch.zeros_like(even)
    odd[:, :, : size[0] // 2, : size[1] // 2] = seen[:, :, 1::2, 1::2]
    near = torch.einsum("oc,bchw->bohw", part.near.weight[:, :, 0, 0], even)
    far = torch.einsum("oc,bchw->bohw", part.far.weight[:, :, 0, 0], odd)
    with torch.no_grad():
        torch.testing.assert_close(part(images), part.norm(torch.cat([near, far], dim=1)))


def test_each_cell_reads_the_two_maps_before_it() -> None:
    backbone = on_meta(NAME)
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        calls.append((*inputs, output))

    for layer in backbone.layers.values():
        if isinstance(layer, Cell):
            layer.register_forward_hook(record)
    maps: Mapping[str, Tensor] = backbone(torch.empty(1, 3, 64, 64, device="meta"))
    outputs = [maps["conv"], *maps.values()]
    assert len(calls) == 16
    for position, (current, previous, output) in enumerate(calls):
        assert previous is outputs[position]
        assert current is outputs[position + 1]
        assert output is outputs[position + 2]


def test_maps_stay_as_they_were_computed_and_only_the_last_is_behind_a_relu() -> None:
    backbone = NASNetA(**SMALL).eval()
    images = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        maps = backbone(images)
        minima = {name: values.min() for name, values in maps.items()}
        for name in maps:
            alone = NASNetA(**SMALL).eval()
            alone.load_state_dict(backbone.state_dict())
            alone.select([name])
            assert list(alone.layers)[-1] == name
            assert torch.equal(alone(images)[name], maps[name])
    assert minima.pop("cell_3") == 0
    assert all(minimum < 0 for minimum in minima.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.5}, r"^backbone 'nasnet_a' has no option 'width'"),
        ({"output_stride": 16}, r"^backbone 'nasnet_a' has no option 'output_stride'"),
        ({"cells": 0}, r"^backbone 'nasnet_a': cells must be a whole number from 1 to 100, got 0\."),
        ({"penultimate_filters": 72}, r"penultimate_filters must be a whole number from 96 to 24,000, got 72\."),
        ({"penultimate_filters": 1000}, r"penultimate_filters must be a multiple of 24, got 1000\."),
        ({"padding": "same"}, r"padding must be one of symmetric, tf_same, got 'same'"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone("nasnet_a", **options)


@pytest.mark.parametrize("size", [(1, 1), (40, 2)])
def test_an_input_smaller_than_the_first_kernel_is_refused(size: tuple[int, int]) -> None:
    model = create_backbone("nasnet_a", cells=1, penultimate_filters=96)
    with pytest.raises(UserError, match=rf"at least 3 x 3 pixels, got {size[0]} x {size[1]}; choose a larger"):
        model(torch.zeros(1, 3, *size))
