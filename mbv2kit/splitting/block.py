"""Runs one block on some rows, one group of its wide channels at a time (Section 5.1).

``F(x) = sum over groups i of project_i(ReLU6(depthwise_i(ReLU6(expand_i(x)))))``: memory holds the wide map of one
group only. Batch norms are folded into the convolutions.
"""

from collections.abc import Iterable

from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mbv2kit.nn.layers import ConvNormAct
from mbv2kit.splitting.chain import BlockSpec, has_relu6


def fold(layer: ConvNormAct) -> tuple[Tensor, Tensor]:
    """Returns the weight and bias of a convolution with its batch norm, in evaluation mode, folded in."""
    norm = layer.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # Folding in double precision rounds the weights only once.
    tensors = (layer.conv.weight, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    conv, mean, variance, scale, shift = (tensor.detach().double() for tensor in tensors)
    weight, bias = fuse_conv_bn_weights(conv, None, mean, variance, norm.eps, scale, shift)
    return weight.detach().to(layer.conv.weight), bias.detach().to(layer.conv.weight)


class SplitBlock:
    """A block that computes output rows one group of wide channels at a time.

    Args:
        spec: The block.
        groups: Number of groups, t in the paper; must be 1 where a head reads the wide map.
        rows: Every range of output rows that :meth:`run` will be called with.
    """

    def __init__(self, spec: BlockSpec, groups: int, rows: Iterable[range]) -> None:
        self.spec = spec
        wide = spec.wide_channels
        share = -(-wide // groups)
        self._groups = [slice(start, min(wide, start + share)) for start in range(0, wide, share)]
        self._expand, self._expand_bias = fold(spec.expand)
        self._depthwise, self._depthwise_bias = fold(spec.depthwise)
        # Padded here, like the weights, so that a run needs no memory for them.
        self._kernels = {key: self._kernel(*key) for key in {self._edges(each) for each in rows}}
        project, self._project_bias = fold(spec.project)
        self._project = project.flatten(1)
        self._relu6 = has_relu6(spec.project)

    def run(self, input: Tensor, start: int, rows: range, output: Tensor) -> Tensor | None:
        """Computes output rows; returns the wide map if a head reads it.

        Args:
            input: ``(B, in_channels, h, W)``: input rows from ``start`` on, including all that ``rows`` depend on; for
                the first block, what :func:`frame` returns.
            start: Index of the first row of ``input``.
            rows: Output rows to compute.
            output: ``(B, out_channels, len(rows), W')``: memory that receives them.
        """
        flat = _flat(output)
        flat.copy_(self._project_bias[:, None])
        read = None
        for group in self._groups:
            wide = self._widen(input, start, rows, group)
            if self.spec.read_expansion:
                read = wide
            deep = self._deepen(wide, rows, group)
            del wide
            flat.baddbmm_(self._project[:, group].expand(len(flat), -1, -1), deep.flatten(2))
            # Frees the memory before the next group allocates its own.
            del deep
        if self._relu6:
            F.relu6(flat, inplace=True)
        if self.spec.adds_input:
            flat.add_(_flat(input[:, :, rows.start - start : rows.stop - start]))
        return read

    def _widen(self, input: Tensor, start: int, rows: range, group: slice) -> Tensor:
        """Computes the rows of a group's wide map that the output's ``rows`` depend on."""
        weight, bias = self._expand[group], self._expand_bias[group]
        if self.spec.first:
            return F.relu6(F.conv2d(input, weight, bias, self.spec.expand.conv.stride), inplace=True)
        needed = self.spec.rows[1].needed(rows)
        lines = input[:, :, needed.start - start : needed.stop - start]
        batch, _, height, width = lines.shape
        wide = lines.new_empty(batch, len(weight), height, width)
        flat = _flat(wide)
        flat.copy_(bias[:, None])
        flat.baddbmm_(weight.flatten(1).expand(batch, -1, -1), _flat(lines))
        return F.relu6(wide, inplace=True)

    def _deepen(self, wide: Tensor, rows: range, group: slice) -> Tensor:
        conv, window = self.spec.depthwise.conv, self.spec.rows[1]
        padding = max(window.padding(rows)), self.spec.columns[1].after
        weight, bias = self._kernels[self._edges(rows)][group], self._depthwise_bias[group]
        deep = F.conv2d(wide, weight, bias, conv.stride, padding, conv.dilation, len(weight))
        return F.relu6(deep, inplace=True)

    def _edges(self, rows: range) -> tuple[int, int, int]:
        """Returns how many lines of zeros to add to the depthwise kernels: left, top and bottom."""
        window, columns = self.spec.rows[1], self.spec.columns[1]
        above, below = window.padding(rows)
        return int(columns.after > columns.before), int(below > above), int(above > below and window.stride == 1)

    def _kernel(self, left: int, top: int, bottom: int) -> Tensor:
        """Returns the depthwise kernels with a line of zeros opposite any side that alone has padding.

        torch pads both sides equally. The line of zeros covers the surplus padding, which saves a copy of the map.
        """
        return F.pad(self._depthwise, (left, 0, top, bottom)) if left or top or bottom else self._depthwise


def frame_of(spec: BlockSpec, rows: range) -> tuple[range, range]:
    """Returns the image rows and columns, including padding, that output ``rows`` of the first block depend on."""
    lines = spec.rows[0].padded(spec.rows[1].needed(rows))
    return lines, spec.columns[0].padded(range(spec.columns[0].output))


def frame(spec: BlockSpec, images: Tensor, rows: range, mean: Tensor, std: Tensor) -> Tensor:
    """Returns the normalized part of the images, including padding, that the first block reads.

    Args:
        spec: The first block.
        images: ``(B, 3, H, W)`` uint8.
        rows: Output rows of the block.
        mean: Mean of each channel, in 0..255.
        std: Standard deviation of each channel, in 0..255.
    """
    lines, columns = frame_of(spec, rows)
    batch, channels, height, width = images.shape
    framed = mean.new_zeros(batch, channels, len(lines), len(columns))
    top, bottom = max(0, lines.start), min(height, lines.stop)
    left, right = max(0, columns.start), min(width, columns.stop)
    inside = framed[:, :, top - lines.start : bottom - lines.start, left - columns.start : right - columns.start]
    inside.copy_(images[:, :, top:bottom, left:right])
    inside.sub_(mean).div_(std)
    return framed


def _flat(lines: Tensor) -> Tensor:
    """Views rows of a contiguous map, ``(B, C, h, W)``, as ``(B, C, h * W)``."""
    batch, channels, height, width = lines.shape
    return lines.as_strided((batch, channels, height * width), (lines.stride(0), lines.stride(1), 1))
