"""One block on some rows, group by group of its wide channels (Section 5.1).

``F(x) = sum over the groups of project_i(ReLU6(depthwise_i(ReLU6(expand_i(x)))))``: of the wide map only one group's
channels are ever there. Batch norms are folded into the convolutions.
"""

from collections.abc import Iterable

from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mbv2kit.nn.layers import ConvNormAct
from mbv2kit.splitting.chain import Unit, relu6_behind


def fold(part: ConvNormAct) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a convolution with the batch norm behind it in evaluation mode."""
    norm = part.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # Folded in double precision, the weights are rounded once.
    tensors = (part.conv.weight, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    conv, mean, variance, scale, shift = (tensor.detach().double() for tensor in tensors)
    weight, bias = fuse_conv_bn_weights(conv, None, mean, variance, norm.eps, scale, shift)
    return weight.detach().to(part.conv.weight), bias.detach().to(part.conv.weight)


class SplitBlock:
    """A block that computes some rows of its output, a group of wide channels after the other.

    Args:
        unit: The block.
        groups: How many groups its wide channels come in, t in the paper; 1 leaves them together, as they must be where
            a head reads them.
        rows: The rows of the output that will be asked for.
    """

    def __init__(self, unit: Unit, groups: int, rows: Iterable[range]) -> None:
        self.unit = unit
        wide = unit.wide_channels
        share = -(-wide // groups)
        self._groups = [slice(start, min(wide, start + share)) for start in range(0, wide, share)]
        self._expand, self._expand_bias = fold(unit.expand)
        self._depthwise, self._depthwise_bias = fold(unit.depthwise)
        # Made beforehand, as the weights are: no run has to make room for them.
        self._kernels = {key: self._kernel(*key) for key in {self._edges(each) for each in rows}}
        project, self._project_bias = fold(unit.project)
        self._project = project.flatten(1)
        self._relu6 = relu6_behind(unit.project)

    def run(self, input: Tensor, start: int, rows: range, output: Tensor) -> Tensor | None:
        """Computes rows of the block's output; returns the wide map if a head reads it.

        Args:
            input: ``(B, in_channels, h, W)``: the rows of the input from ``start`` on, among them all that are needed;
                for the first unit what :func:`frame` made.
            start: First row of ``input``.
            rows: Of the output.
            output: ``(B, out_channels, len(rows), W')`` memory to write them to.
        """
        flat = _flat(output)
        flat.copy_(self._project_bias[:, None])
        read = None
        for group in self._groups:
            wide = self._widen(input, start, rows, group)
            if self.unit.read_expansion:
                read = wide
            deep = self._deepen(wide, rows, group)
            del wide
            flat.baddbmm_(self._project[:, group].expand(len(flat), -1, -1), deep.flatten(2))
            # Before the next group's is made.
            del deep
        if self._relu6:
            F.relu6(flat, inplace=True)
        if self.unit.adds_input:
            flat.add_(_flat(input[:, :, rows.start - start : rows.stop - start]))
        return read

    def _widen(self, input: Tensor, start: int, rows: range, group: slice) -> Tensor:
        """Computes those rows of a group of the wide map that ``rows`` of the output look at."""
        weight, bias = self._expand[group], self._expand_bias[group]
        if self.unit.first:
            return F.relu6(F.conv2d(input, weight, bias, self.unit.expand.conv.stride), inplace=True)
        needed = self.unit.rows[1].needed(rows)
        lines = input[:, :, needed.start - start : needed.stop - start]
        batch, _, height, width = lines.shape
        wide = lines.new_empty(batch, len(weight), height, width)
        flat = _flat(wide)
        flat.copy_(bias[:, None])
        flat.baddbmm_(weight.flatten(1).expand(batch, -1, -1), _flat(lines))
        return F.relu6(wide, inplace=True)

    def _deepen(self, wide: Tensor, rows: range, group: slice) -> Tensor:
        conv, window = self.unit.depthwise.conv, self.unit.rows[1]
        padding = max(window.padding(rows)), self.unit.columns[1].after
        weight, bias = self._kernels[self._edges(rows)][group], self._depthwise_bias[group]
        deep = F.conv2d(wide, weight, bias, conv.stride, padding, conv.dilation, len(weight))
        return F.relu6(deep, inplace=True)

    def _edges(self, rows: range) -> tuple[int, int, int]:
        """Returns how many lines of zeros the depthwise kernels need on the left, on top and at the bottom."""
        window, columns = self.unit.rows[1], self.unit.columns[1]
        above, below = window.padding(rows)
        return int(columns.after > columns.before), int(below > above), int(above > below and window.stride == 1)

    def _kernel(self, left: int, top: int, bottom: int) -> Tensor:
        """Returns the depthwise kernels with a line of zeros where the map has padding at the other end alone.

        torch pads both ends alike. A line of zeros looks at the padding that is too much, so that the map need not be
        copied into another with the right one.
        """
        return F.pad(self._depthwise, (left, 0, top, bottom)) if left or top or bottom else self._depthwise


def frame_of(unit: Unit, rows: range) -> tuple[range, range]:
    """Returns the lines and columns of the image, padding among them, that the first unit looks at for ``rows``."""
    lines = unit.rows[0].padded(unit.rows[1].needed(rows))
    return lines, unit.columns[0].padded(range(unit.columns[0].output))


def frame(unit: Unit, images: Tensor, rows: range, mean: Tensor, std: Tensor) -> Tensor:
    """Returns the part of an image that the first unit looks at, normalized, in its padding.

    Args:
        unit: The first one.
        images: ``(B, 3, H, W)`` uint8.
        rows: Of the unit's output.
        mean: Subtracted from each channel, in 0..255.
        std: What each channel is divided by, in 0..255.
    """
    lines, columns = frame_of(unit, rows)
    batch, channels, height, width = images.shape
    framed = mean.new_zeros(batch, channels, len(lines), len(columns))
    top, bottom = max(0, lines.start), min(height, lines.stop)
    left, right = max(0, columns.start), min(width, columns.stop)
    inside = framed[:, :, top - lines.start : bottom - lines.start, left - columns.start : right - columns.start]
    inside.copy_(images[:, :, top:bottom, left:right])
    inside.sub_(mean).div_(std)
    return framed


def _flat(lines: Tensor) -> Tensor:
    """``(B, C, h, W) -> (B, C, h * W)`` as a view, for lines of a contiguous map."""
    batch, channels, height, width = lines.shape
    return lines.as_strided((batch, channels, height * width), (lines.stride(0), lines.stride(1), 1))
