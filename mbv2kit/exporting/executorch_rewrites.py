"""A captured network in operations that XNNPACK has; others run in ExecuTorch's own kernels, on one thread.

On two threads a cast and an average took a fifth of MobileNetV2's time, and an arg-max a third of DeepLab's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional as F

aten = torch.ops.aten
BYTES = (0, 255, torch.uint8)
_CONV2D_DEFAULTS = (None, None, None, (1, 1), (0, 0), (1, 1), 1)


class InForms(nn.Module):
    """Runs a captured network, and in the place of some operations others that compute the same.

    Args:
        module: What ``torch.export`` captured; it is to be captured again in this form.
    """

    def __init__(self, module: GraphModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Any:
        """Computes what ``module`` does."""
        return _Rewriter(self.module).run(images)


class _Rewriter(Interpreter):
    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is aten._assert_tensor_metadata.default:
            return None  # What was captured asserts the types of the operations that are replaced.
        form = _FORMS.get(target)
        result = None if form is None else form(*args, **kwargs)
        return super().call_function(target, args, kwargs) if result is None else result


def _mean(maps: Tensor, dim: Sequence[int], keepdim: bool = False) -> Tensor | None:
    """XNNPACK averages over the sides of a map and leaves them there."""
    sides = maps.dim() == 4 and {each % 4 for each in dim} == {2, 3}
    return maps.mean((2, 3), keepdim=True).flatten(1) if sides and not keepdim else None


def _expand(values: Tensor, size: Sequence[int]) -> Tensor | None:
    """Spreads one value of each channel over a map."""
    if values.dim() != 4 or len(size) != 4 or values.shape[2:] != (1, 1):
        return None
    return values + torch.zeros((1, 1, *size[2:]), dtype=values.dtype)


def _matmul(a: Tensor, b: Tensor) -> Tensor | None:
    """A product of maps and one matrix is a linear layer, whose weights XNNPACK packs once."""
    if b.dim() == 2:
        return F.linear(a, b.mT)
    return F.linear(b.mT, a).mT if a.dim() == 2 and b.dim() > 2 else None


def _argmax(maps: Tensor, dim: int) -> Tensor | None:
    """Goes from class to class; the result is in floats.

    A difference of two floats is 0 or, times ``huge``, beyond any index: cut to 0..index it is the index where this
    class is above all before it, and else 0.
    """
    if dim != 1 or maps.shape[1] < 2:
        return None
    huge = 1e37
    # XNNPACK takes slices, but splits nothing.
    highest, second, *others = (maps[:, index : index + 1] for index in range(maps.shape[1]))
    best = ((second - highest) * huge).clamp(0, 1)
    highest = torch.maximum(highest, second)
    for index, values in enumerate(others, start=2):
        best = torch.maximum(best, ((values - highest) * huge).clamp(0, index))
        highest = torch.maximum(highest, values)
    return best.squeeze(1)


def _to(values: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Makes bytes of whole numbers with the operation that quantizes, which is much quicker than a cast."""
    if dtype != torch.uint8 or not values.is_floating_point():
        return None
    bytes_: Tensor = torch.ops.quantized_decomposed.quantize_per_tensor.default(values, 1.0, 0, *BYTES)
    return bytes_


_FORMS: dict[Any, Callable[..., Tensor | None]] = {
    aten.mean.dim: _mean,
    aten.expand.default: _expand,
    aten.matmul.default: _matmul,
    aten.argmax.default: _argmax,
    aten.to.dtype: _to,
}


def pad_in_convolutions(module: GraphModule) -> None:
    """Leaves zeros that lie evenly around a map to the convolution that needs them, in place."""
    for conv in list(module.graph.nodes):
        if conv.target is aten.conv2d.default and feeds_alone(conv.args[0], aten.pad.default):
            pad = conv.args[0]
            left, right, top, bottom = pad.args[1]
            arguments: tuple[Any, ...] = (*conv.args, *_CONV2D_DEFAULTS[len(conv.args) :])
            if left == right and top == bottom:
                _, weight, bias, stride, _, dilation, groups = arguments
                conv.args = (pad.args[0], weight, bias, stride, (top, left), dilation, groups)
                module.graph.erase_node(pad)
    module.recompile()


def feeds_alone(node: Node, target: Any) -> bool:
    """Whether a node is an operation of a kind whose result has one use."""
    return node.target is target and len(node.users) == 1
