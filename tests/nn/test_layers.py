from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.nn.layers import (
    Conv2d,
    ConvNormAct,
    ConvStyle,
    InvertedResidual,
    NormOptions,
    Padding,
    SeparableConv,
    initialize,
    make_divisible,
)
from tests.norms import randomize_norms

SIDES = st.integers(1, 12)


def convolve_by_definition(x: Tensor, weight: Tensor, stride: int, dilation: int, before: tuple[int, int]) -> Tensor:
    """Adds up tap by tap what each output pixel depends on; ``before`` is the padding above and to the left."""
    kernel = weight.shape[2]
    height, width = x.shape[2:]
    rows, columns = ceil(height / stride), ceil(width / stride)
    output = torch.zeros(len(x), len(weight), rows, columns, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            for a in range(kernel):
                for b in range(kernel):
                    y = i * stride + a * dilation - before[0]
                    z = j * stride + b * dilation - before[1]
                    if 0 <= y < height and 0 <= z < width:
                        output[:, :, i, j] += x[:, :, y, z] @ weight[:, :, a, b].T
    return output


@pytest.mark.parametrize(
    ("value", "channels"),
    [(8.4, 8), (11.2, 16), (33.6, 32), (5.6, 8), (72, 72), (1792, 1792), (44.8, 48), (22.4, 24), (3.2, 8), (0.1, 8)],
)
def test_channels_that_tensorflow_rounds_to(value: float, channels: int) -> None:
    assert make_divisible(value) == channels


@given(st.floats(0.5, 4000))
def test_channels_are_multiples_of_8_and_never_below_90_percent(value: float) -> None:
    channels = make_divisible(value)
    assert channels % 8 == 0
    assert channels >= max(8, 0.9 * value)
    nearest = max(8, round(value / 8) * 8)
    assert abs(channels - nearest) <= 8
    if nearest >= 0.9 * value and value / 8 % 1 != 0.5:
        assert channels == nearest


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.sampled_from([1, 3, 5]), st.sampled_from([(1, 1), (1, 2), (1, 4), (2, 1), (3, 1)]))
def test_tf_same_is_tensorflows_formula(height: int, width: int, kernel: int, step: tuple[int, int]) -> None:
    stride, dilation = step
    conv = Conv2d(2, 3, kernel, stride=stride, dilation=dilation, padding="tf_same").double()
    x = torch.randn(2, 2, height, width, dtype=torch.float64)
    reach = (kernel - 1) * dilation + 1
    # The formula of TensorFlow's guide to padding: the odd pixel goes at the end.
    missing = [max(reach - stride if side % stride == 0 else reach - side % stride, 0) for side in (height, width)]
    expected = convolve_by_definition(x, conv.weight, stride, dilation, (missing[0] // 2, missing[1] // 2))
    torch.testing.assert_close(conv(x), expected)


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.sampled_from([1, 3, 5]), st.sampled_from([(1, 1), (1, 2), (1, 4), (2, 1)]))
def test_symmetric_padding_adds_the_same_on_every_side(
    height: int, width: int, kernel: int, step: tuple[int, int]
) -> None:
    stride, dilation = step
    conv = Conv2d(2, 3, kernel, stride=stride, dilation=dilation).double()
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    around = dilation * (kernel - 1) // 2
    torch.testing.assert_close(conv(x), convolve_by_definition(x, conv.weight, stride, dilation, (around, around)))


@pytest.mark.parametrize("size", [(33, 17), (1, 1), (15, 7)])
def test_the_two_paddings_agree_on_odd_sizes(size: tuple[int, int]) -> None:
    outputs = [paddings_apart(size, padding) for padding in ("symmetric", "tf_same")]
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("size", [(32, 16), (32, 17), (33, 16)])
def test_the_two_paddings_differ_where_a_stride_meets_an_even_size(size: tuple[int, int]) -> None:
    symmetric, same = (paddings_apart(size, padding) for padding in ("symmetric", "tf_same"))
    assert symmetric.shape == same.shape
    assert (symmetric - same).abs().max() > 0.01


def paddings_apart(size: tuple[int, int], padding: Padding) -> Tensor:
    torch.manual_seed(1)
    output: Tensor = Conv2d(2, 2, 3, stride=2, padding=padding)(torch.randn(1, 2, *size))
    return output.detach()


def test_conv_norm_act_is_its_three_parts_without_a_bias() -> None:
    block = ConvNormAct(4, 6, 3, style=ConvStyle(norm=NormOptions(norm_eps=1e-2, norm_momentum=0.2)), stride=2)
    assert block.conv.bias is None
    x = 20 * torch.randn(2, 4, 9, 9)
    weighted = F.conv2d(x, block.conv.weight, stride=2, padding=1)
    mean, variance = weighted.mean((0, 2, 3)), weighted.var((0, 2, 3), unbiased=False)
    normal = (weighted - mean[:, None, None]) / (variance[:, None, None] + 1e-2).sqrt()
    torch.testing.assert_close(block(x), normal.clamp(0, 6))
    torch.testing.assert_close(block.norm.running_mean, 0.2 * mean)
    bare = ConvNormAct(4, 6, 3, style=ConvStyle(), activation=False)
    assert bare(x).min() < 0
    assert [name for name, _ in bare.named_children()] == ["conv", "norm"]


def test_the_activation_is_the_styles() -> None:
    x = torch.randn(2, 4, 9, 9)
    block = ConvNormAct(4, 6, 1, style=ConvStyle(activation=nn.ReLU)).eval()
    assert block.norm.weight is not None
    nn.init.constant_(block.norm.weight, 50.0)
    assert block(x).max() > 6
    assert block(x).min() == 0


def test_separable_convolution_is_depthwise_then_pointwise() -> None:
    block = SeparableConv(8, 5, style=ConvStyle(), stride=2)
    convs = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
    assert [(conv.groups, conv.kernel_size[0], conv.stride[0], conv.out_channels) for conv in convs] == [
        (8, 3, 2, 8),
        (1, 1, 1, 5),
    ]
    assert sum(isinstance(part, nn.ReLU6) for part in block.modules()) == 2
    assert block(torch.randn(2, 8, 7, 10)).shape == (2, 5, 4, 5)


def norm(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    statistics = state[f"{prefix}.running_mean"], state[f"{prefix}.running_var"]
    return F.batch_norm(x, *statistics, state[f"{prefix}.weight"], state[f"{prefix}.bias"], eps=1e-3)


def inverted_residual_by_hand(x: Tensor, state: dict[str, Tensor], stride: int, dilation: int) -> Tensor:
    """Table 1 from its weights alone, without the shortcut."""
    if "expand.conv.weight" in state:
        x = norm(F.conv2d(x, state["expand.conv.weight"]), state, "expand.norm").clamp(0, 6)
    depthwise = state["depthwise.conv.weight"]
    x = F.conv2d(x, depthwise, stride=stride, padding=dilation, dilation=dilation, groups=len(depthwise))
    x = norm(x, state, "depthwise.norm").clamp(0, 6)
    return norm(F.conv2d(x, state["project.conv.weight"]), state, "project.norm")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("out_channels", "expansion"), [(8, 6), (8, 1), (16, 6)])
def test_inverted_residual_is_table_1(out_channels: int, expansion: int, stride: int, dilation: int) -> None:
    block = InvertedResidual(
        8, out_channels, expansion=expansion, stride=stride, dilation=dilation, style=ConvStyle()
    ).eval()
    randomize_norms(block)
    x = torch.randn(2, 8, 11, 14)
    output, expanded = block(x)
    expected = inverted_residual_by_hand(x, block.state_dict(), stride, dilation)
    if stride == 1 and out_channels == 8:
        expected = expected + x
    torch.testing.assert_close(output, expected)
    assert expanded.shape == (2, 8 * expansion, 11, 14)


@pytest.mark.parametrize("shortcut", ["none", "expansion"])
def test_only_the_papers_shortcut_adds_bottlenecks(shortcut: str) -> None:
    block = InvertedResidual(8, 8, expansion=6, shortcut=shortcut, style=ConvStyle()).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(x)[0], inverted_residual_by_hand(x, block.state_dict(), 1, 1))


def test_a_carried_expansion_is_added_to_the_blocks_own() -> None:
    block = InvertedResidual(8, 8, expansion=6, shortcut="expansion", style=ConvStyle()).eval()
    x, carried = torch.randn(2, 8, 6, 6), torch.randn(2, 48, 6, 6)
    torch.testing.assert_close(block(x, carried)[1], block.expand(x) + carried)
    torch.testing.assert_close(block(x, carried)[0], block.project(block.depthwise(block.expand(x) + carried)))


def test_fresh_weights_keep_the_size_of_a_signal() -> None:
    conv, norm, linear = nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Linear(128, 64)
    depthwise = nn.Conv2d(960, 960, 3, groups=960)
    nn.init.constant_(norm.weight, 7.0)
    initialize(nn.ModuleList([conv, depthwise, norm, linear]))
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    # Each value of a depthwise convolution has nine weights, whatever the number of channels.
    assert depthwise.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.03)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert norm.weight.tolist() == [1.0] * 128
    for part in (conv, depthwise, norm, linear):
        assert part.bias is not None
        assert not part.bias.any()
