"""Biases that make up for what rounding the weights does to the mean of every channel.

The same correction as in :mod:`mbv2kit.export.onnx_bias`, for a network that torch has captured: see there.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional as F

from mbv2kit.export.executorch_forms import aten

# The least step of a channel's weights. It keeps the bias of a channel that never varies, whose weights are next to
# nothing, within 32 bits of the product of steps.
LEAST_STEP = 2.0**-16
LARGEST = 127


def correct_biases(module: GraphModule, batches: Sequence[Tensor]) -> None:
    """Takes from the bias of every convolution what its rounded weights will add to the mean of each channel, in place.

    Args:
        module: With weights that are still floats.
        batches: Inputs to measure means on.
    """
    shifts: dict[Node, Tensor] = {}
    for images in batches:
        _Measurement(module, shifts).run(images)
    for conv, shift in shifts.items():
        module.get_parameter(conv.args[2].target).sub_(shift / len(batches))  # type: ignore[union-attr, arg-type]


class _Measurement(Interpreter):
    def __init__(self, module: GraphModule, shifts: dict[Node, Tensor]) -> None:
        super().__init__(module)
        self.shifts = shifts

    def run_node(self, n: Node) -> Any:
        if n.target is aten.conv2d.default and len(n.args) > 2 and n.args[2] is not None:
            (maps, weight, _, *others), _ = self.fetch_args_kwargs_from_env(n)
            added = F.conv2d(maps, _round(weight) - weight, None, *others).mean((0, 2, 3))
            self.shifts[n] = self.shifts.get(n, torch.zeros_like(added)) + added
        return super().run_node(n)


def _round(weight: Tensor) -> Tensor:
    """Rounds the weights of a convolution as the quantiser will, with a scale for each output channel."""
    step = (weight.abs().amax((1, 2, 3), keepdim=True) / LARGEST).clamp(min=LEAST_STEP)
    return (weight / step).round() * step
