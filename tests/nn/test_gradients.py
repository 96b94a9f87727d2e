"""Every block, memory layout and type that training uses, compared with float64.

A wrong gradient of a library is silent: the loss still falls, but less. So each kind of block is compared, on maps as
large as those with wrong gradients, and on small ones.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.heads.deeplab_v3 import DeepLabV3
from mbv2kit.nn import layers
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import Conv2d, ConvNormAct, ConvStyle, InvertedResidual, Padding, SeparableConv

STYLE = ConvStyle()
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Error as a share of a gradient's length. Most of it comes from the few values that rounding moves across a
# corner of ReLU6, where the slope jumps; a wrong gradient is off by its whole length or more.
TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.25}
MAP, SMALL_MAP = (37, 49), (5, 2)


class Bottlenecks(nn.Module):
    """An inverted residual that returns only the bottleneck."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.block = InvertedResidual(
            in_channels, out_channels, expansion=6, stride=stride, dilation=dilation, style=STYLE
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.block(x)[0]
        return output


class Logits(nn.Module):
    """DeepLab's head on one map."""

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__()
        self.head = DeepLabV3([FeatureInfo("map", channels, 16)], 5, feature="map", dropout=0.0, channels=32, **options)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head({"map": x})["logits"]
        return logits


BLOCKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "convolution": (32, lambda: ConvNormAct(32, 48, 3, style=STYLE)),
    "strided convolution": (3, lambda: ConvNormAct(3, 32, 3, style=STYLE, stride=2)),
    "strided convolution, SAME": (3, lambda: ConvNormAct(3, 32, 3, style=ConvStyle(padding="tf_same"), stride=2)),
    "pointwise": (96, lambda: ConvNormAct(96, 48, 1, style=STYLE, activation=False)),
    "depthwise": (96, lambda: ConvNormAct(96, 96, 3, style=STYLE, groups=96)),
    "strided depthwise": (96, lambda: ConvNormAct(96, 96, 3, style=STYLE, groups=96, stride=2)),
    "depthwise, dilation 2": (384, lambda: ConvNormAct(384, 384, 3, style=STYLE, groups=384, dilation=2)),
    "depthwise, dilation 4": (384, lambda: ConvNormAct(384, 384, 3, style=STYLE, groups=384, dilation=4)),
    "separable": (96, lambda: SeparableConv(96, 48, style=STYLE)),
    "strided separable": (96, lambda: SeparableConv(96, 48, style=STYLE, stride=2)),
    "inverted residual": (32, lambda: Bottlenecks(32, 32)),
    "strided inverted residual": (32, lambda: Bottlenecks(32, 48, stride=2)),
    "inverted residual, dilation 2": (32, lambda: Bottlenecks(32, 32, dilation=2)),
    "inverted residual, dilation 4": (32, lambda: Bottlenecks(32, 32, dilation=4)),
    "head without atrous branches": (64, lambda: Logits(64)),
    "head with atrous branches": (64, lambda: Logits(64, aspp=True)),
}


def gradients(block: nn.Module, x: Tensor, autocast: bool) -> dict[str, Tensor]:
    """Returns the output and, for a random gradient of it, the gradients of the input and of every parameter."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = block(x)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(upstream.to(output.dtype))
    assert x.grad is not None
    found = {"output": output.detach(), "input": x.grad}
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "size"),
    # On a few pixels a head's norms turn the rounding of bfloat16 into large errors.
    [*((kind, MAP) for kind in BLOCKS), *((kind, SMALL_MAP) for kind in BLOCKS if "head" not in kind)],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]} x {value[1]}",
)
def test_gradients_are_those_of_float64(kind: str, size: tuple[int, int], layout: str, dtype: torch.dtype) -> None:
    channels, build = BLOCKS[kind]
    block = build()
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            # With a bias of zero the next norm undoes the scale of this one, whose gradient is then only rounding.
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    exact = deepcopy(block).double()
    # Image pooling is normalized over images only: it needs several, with different means.
    images = 3 if "head" in kind else 1
    x = torch.randn(images, channels, *size) + torch.randn(images, channels, 1, 1)
    block = block.to(memory_format=LAYOUTS[layout])
    expected = gradients(exact, x.double(), autocast=False)
    found = gradients(block, x.contiguous(memory_format=LAYOUTS[layout]), autocast=dtype == torch.bfloat16)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (found[name].double() - gradient).norm() / gradient.norm()
        assert error < TOLERANCE[dtype], f"{name} is off by {error:.3g} of its length"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 32])
def test_a_strided_kernel_on_one_pixel_has_a_gradient_of_zero_around_it(groups: int, layout: str) -> None:
    for kernel in (3, 5):
        conv = Conv2d(32, 32, kernel, stride=2, groups=groups).to(memory_format=LAYOUTS[layout])
        x = torch.randn(2, 32, 1, 1).contiguous(memory_format=LAYOUTS[layout])
        expected = gradients(deepcopy(conv).double(), x.double(), autocast=False)["weight"]
        # What the memory held before must not become a gradient.
        for count in (conv.weight.numel(), 200_000) * 10:
            torch.full((count,), float("nan"))
        found = gradients(conv, x, autocast=True)["weight"].double()
        assert (found - expected).norm() / expected.norm() < TOLERANCE[torch.bfloat16]


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the dilation of every convolution that torch runs."""
    seen: list[int] = []
    convolve = F.conv2d

    def spy(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        seen.append(dilation if isinstance(dilation, int) else dilation[0])
        return convolve(input, weight, bias, stride, padding, dilation, groups)

    monkeypatch.setattr(F, "conv2d", spy)
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3), (7, 4), (11, 11), (16, 16), (17, 33), (23, 31), (32, 45)])
@pytest.mark.parametrize("dilation", [2, 3, 4])
@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
def test_a_dilated_depthwise_convolution_learns_without_a_dilated_call(
    rates: list[int], layout: str, size: tuple[int, int], dilation: int, padding: Padding
) -> None:
    conv = Conv2d(6, 6, 3, dilation=dilation, groups=6, bias=True, padding=padding).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=LAYOUTS[layout])
    output = conv(x)
    assert rates == [1]
    assert output.is_contiguous(memory_format=LAYOUTS[layout])
    torch.testing.assert_close(output, F.conv2d(x, conv.weight, conv.bias, 1, dilation, dilation, 6))


@pytest.fixture
def heights(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects the height of the map of every convolution that torch runs."""
    seen: list[int] = []
    convolve = F.conv2d

    def spy(input: Tensor, *options: Any) -> Tensor:
        seen.append(input.shape[2])
        return convolve(input, *options)

    monkeypatch.setattr(F, "conv2d", spy)
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 7), (7, 1)])
@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
def test_a_depthwise_convolution_learns_on_maps_as_large_as_its_kernel_at_least(
    heights: list[int], layout: str, size: tuple[int, int], padding: Padding
) -> None:
    conv = Conv2d(6, 6, 3, groups=6, padding=padding).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=LAYOUTS[layout])
    output = conv(x)
    assert min(heights) >= 3
    assert output.is_contiguous(memory_format=LAYOUTS[layout])
    torch.testing.assert_close(output, F.conv2d(x, conv.weight, None, 1, 1, 1, 6))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"dilation": 2, "groups": 1}, (24, 24)),
        ({"dilation": 2, "groups": 3}, (24, 24)),
        ({"dilation": 2, "groups": 6, "stride": 2}, (24, 24)),
    ],
    ids=["plain", "grouped", "strided"],
)
def test_other_dilated_convolutions_are_torchs_own(
    rates: list[int], options: dict[str, int], size: tuple[int, int]
) -> None:
    Conv2d(6, 6, 3, **options)(torch.randn(1, 6, *size))  # type: ignore[arg-type]
    assert rates == [2]


def test_a_network_in_use_keeps_its_dilation(rates: list[int]) -> None:
    Conv2d(6, 6, 3, dilation=2, groups=6).eval()(torch.randn(1, 6, 24, 24))
    assert rates == [2]


def test_the_way_around_dilation_is_behind_one_switch(rates: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "DILATED_BY_PHASES", False)
    Conv2d(6, 6, 3, dilation=2, groups=6)(torch.randn(1, 6, 24, 24))
    assert rates == [2]
