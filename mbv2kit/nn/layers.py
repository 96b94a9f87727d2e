"""The blocks that several papers share: convolution + norm + activation, separable convolution, inverted residual."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.nn.relu6 import ReLU6
from mbv2kit.schema.rules import Share, above

Padding = Literal["symmetric", "tf_same"]
Bottleneck = Literal["linear", "relu6"]
Shortcut = Literal["bottleneck", "expansion", "none"]
Activation = Literal["relu6", "relu"]
ACTIVATIONS: Mapping[Activation, Callable[[], nn.Module]] = {"relu6": ReLU6, "relu": partial(nn.ReLU, inplace=True)}

# On a CPU, torch 2.14 with oneDNN takes five to ten times as long for the gradients of a depthwise convolution as
# elsewhere if it is dilated, or if its map is smaller than its kernel. In bfloat16 and channels_last the gradient of a
# dilated one's weight is even wrong. Training therefore computes both as undilated convolutions over the phases of the
# image: the same numbers, fast and correct. Set this to False when no supported torch needs it;
# tests/nn/test_gradients.py compares every block with float64.
DILATED_BY_PHASES = True


def make_divisible(value: float, divisor: int = 8) -> int:
    """Rounds a number of channels to the nearest multiple of ``divisor``, but never below 90 % of ``value``."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class NormOptions:
    """How batch normalization computes.

    Attributes:
        norm_eps: Epsilon of batch normalization; it belongs to the weights.
        norm_momentum: Weight of the newest batch in the running statistics, which is 1 - TensorFlow's decay: 0.003 for
            a decay of 0.997.
    """

    norm_eps: Annotated[float, above(0, 1)] = 1e-3
    norm_momentum: Share = 0.03

    def __call__(self, channels: int) -> nn.BatchNorm2d:
        """Builds a batch normalization over ``channels``."""
        return nn.BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum)


@dataclass(frozen=True, slots=True)
class ConvStyle:
    """Options that all convolutions of a network share.

    Attributes:
        padding: ``symmetric`` adds ``(kernel - 1) / 2`` on every side; ``tf_same`` pads as TensorFlow's SAME, with the
            odd pixel at the bottom and right. They differ where a strided convolution meets an even size.
        norm: Builds the batch normalization behind a convolution.
        activation: Builds the activation function.
    """

    padding: Padding = "symmetric"
    norm: NormOptions = NormOptions()
    activation: Callable[[], nn.Module] = ReLU6


class Conv2d(nn.Conv2d):
    """A square convolution, padded as :class:`ConvStyle` says.

    ``(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        padding: Padding = "symmetric",
    ) -> None:
        self.same = padding == "tf_same"
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=0 if self.same else dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Convolves ``(B, C, H, W)``."""
        if self.same and self.kernel_size[0] > 1:
            rows, columns = (self.pads(size) for size in input.shape[2:])
            input = F.pad(input, (*columns, *rows))
        if self.training and self._runs_by_phases(input):
            return self._convolve_phases(input)
        if self.training and self._needs_zeros(input):
            (padding, _) = self.pads(1)
            zeros = F.pad(input, (padding,) * 4)
            return F.conv2d(zeros, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return super().forward(input)

    def pads(self, size: int) -> tuple[int, int]:
        """Returns how many zeros are added before and after a side of ``size`` pixels."""
        stride, reach = self.stride[0], self.dilation[0] * (self.kernel_size[0] - 1)
        if not self.same:
            return reach // 2, reach // 2
        missing = max(0, (-(-size // stride) - 1) * stride + reach + 1 - size)
        return missing // 2, missing - missing // 2

    def _runs_by_phases(self, input: Tensor) -> bool:
        depthwise = self.groups == self.in_channels > 1 and self.stride[0] == 1
        slow = self.dilation[0] > 1 or min(input.shape[2:]) < self.kernel_size[0]
        return DILATED_BY_PHASES and depthwise and slow and input.device.type == "cpu"

    def _needs_zeros(self, input: Tensor) -> bool:
        """Returns whether torch leaves a part of the weight's gradient as it finds the memory.

        In bfloat16 on a CPU, oneDNN writes no gradient for the part of a strided kernel that lies around a map of one
        pixel. Zeros that belong to the map have one.
        """
        one_pixel = tuple(input.shape[2:]) == (1, 1) and self.stride[0] > 1
        return one_pixel and input.device.type == "cpu" and torch.is_autocast_enabled("cpu")

    def _convolve_phases(self, input: Tensor) -> Tensor:
        """Splits ``(B, C, H, W)`` into its d x d phases, convolves each without dilation, and joins the results.

        TensorFlow has operations for this: SpaceToBatchND and BatchToSpaceND. The copies keep the channels of a pixel
        together, in the order ``(B, H, W, C)``; any other takes several times as long.
        """
        rate, kernel, padding = self.dilation[0], self.kernel_size[0], self.padding[0]
        assert isinstance(padding, int)
        batch, channels, height, width = input.shape
        # Phases smaller than the kernel would be slow as well.
        rows, columns = (max(-(-size // rate), kernel) for size in (height, width))
        filled = F.pad(input.permute(0, 2, 3, 1), (0, 0, 0, columns * rate - width, 0, rows * rate - height))
        grid = filled.reshape(batch, rows, rate, columns, rate, channels).permute(2, 4, 0, 1, 3, 5)
        phases = grid.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
        output = F.conv2d(phases, self.weight, self.bias, 1, padding // rate, 1, self.groups).permute(0, 2, 3, 1)
        rows, columns = output.shape[1:3]
        grid = output.reshape(rate, rate, batch, rows, columns, channels).permute(2, 3, 0, 4, 1, 5)
        joined = grid.reshape(batch, rows * rate, columns * rate, channels)
        lost = rate * (kernel - 1) - 2 * padding
        channels_last = input.is_contiguous(memory_format=torch.channels_last)
        return (
            joined[:, : height - lost, : width - lost]
            .permute(0, 3, 1, 2)
            .contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        )


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch normalization and, unless ``activation=False``, the style's activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        style: ConvStyle,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: bool = True,
    ) -> None:
        conv = Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            padding=style.padding,
        )
        super().__init__()
        self.conv = conv
        self.norm = style.norm(out_channels)
        if activation:
            self.act = style.activation()


class SeparableConv(nn.Sequential):
    """A 3 x 3 depthwise convolution followed by a 1 x 1 convolution, each with norm and activation (Section 3.1).

    ``linear`` leaves out the activation of the second, as in a bottleneck.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        style: ConvStyle,
        stride: int = 1,
        dilation: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, 3, style=style, stride=stride, dilation=dilation, groups=in_channels
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, style=style, activation=not linear)


class InvertedResidual(nn.Module):
    """The paper's bottleneck block (Table 1): 1 x 1 expansion, 3 x 3 depthwise, 1 x 1 linear projection.

    Args:
        in_channels: Channels of the input bottleneck.
        out_channels: Channels of the output bottleneck.
        expansion: Factor t between the bottleneck and the wide layer; at 1 the first 1 x 1 convolution is left out.
        stride: Stride of the depthwise convolution.
        dilation: Dilation of the depthwise convolution.
        bottleneck: ``linear`` as in the paper; ``relu6`` adds a non-linearity after the projection (Section 6.4).
        shortcut: What a block of stride 1 with as many output as input channels adds: its two ``bottleneck`` tensors,
            its ``expansion`` and that of the next block (as a classical residual does), or ``none`` (Figure 6b).
        style: Options of the three convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        expansion: int,
        stride: int = 1,
        dilation: int = 1,
        bottleneck: Bottleneck = "linear",
        shortcut: Shortcut = "bottleneck",
        style: ConvStyle,
    ) -> None:
        super().__init__()
        wide = in_channels * expansion
        keeps_shape = stride == 1 and in_channels == out_channels
        self.adds_input = keeps_shape and shortcut == "bottleneck"
        # At t = 1 the expansion is narrower than that of the next block.
        self.hands_on_expansion = keeps_shape and shortcut == "expansion" and expansion > 1
        self.expand = ConvNormAct(in_channels, wide, 1, style=style) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNormAct(wide, wide, 3, style=style, stride=stride, dilation=dilation, groups=wide)
        self.project = ConvNormAct(wide, out_channels, 1, style=style, activation=bottleneck == "relu6")

    def forward(self, bottleneck: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the block.

        Args:
            bottleneck: ``(B, in_channels, H, W)``.
            carried: The expansion of the previous block, which is added to this block's; None adds nothing.

        Returns:
            The new bottleneck, ``(B, out_channels, ceil(H / stride), ceil(W / stride))``, and the expansion,
            ``(B, in_channels * expansion, H, W)``.
        """
        expansion = self.expand(bottleneck)
        if carried is not None:
            expansion = expansion + carried
        output = self.project(self.depthwise(expansion))
        return output + bottleneck if self.adds_input else output, expansion


def initialize(module: nn.Module) -> None:
    """Initializes weights: convolutions by He et al. (fan out), norms to one and zero, linear layers to N(0, 0.01)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            # torch's own fan out ignores the groups: depthwise kernels would be so small that the epsilon of the
            # following batch norm drowns the signal.
            fan_out = part.out_channels // part.groups * part.kernel_size[0] * part.kernel_size[1]
            nn.init.normal_(part.weight, std=sqrt(2 / fan_out))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            nn.init.zeros_(part.bias)
