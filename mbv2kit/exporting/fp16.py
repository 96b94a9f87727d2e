"""Rounds the weights of a network to fp16 so that their errors cancel.

Neighboring pixels are similar, and after a ReLU6 all of them are positive, so the sum of the errors of a channel's
weights matters most. If the sum is zero, fp16 weights move no box of a trained SSDLite by more than 0.4 pixels; if
every weight is rounded to the nearest number, some boxes move by 3.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn

from mbv2kit.models.export_network import ExportNetwork


@torch.no_grad()
def round_to(network: ExportNetwork, dtype: torch.dtype) -> ExportNetwork:
    """Returns a copy whose weights are rounded to a narrower float type; the sum of each channel's weights is kept.

    Args:
        network: Network with folded norms; the copy stays in float32.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
    """
    copy = deepcopy(network)
    for layer in copy.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rounded = _round_with_sums(layer.weight.flatten(1).double(), dtype)
            layer.weight.copy_(rounded.view_as(layer.weight))
    return copy


def _round_with_sums(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounds numbers so that the sum of each row is kept."""
    rounded = exact.to(dtype).double()
    # A number halfway between two others may be rounded either way, so those nearest to halfway come first.
    steps = _steps(rounded, dtype)
    undecided = ((rounded - exact).abs() / steps).argsort(dim=1, descending=True, stable=True)
    _balance(rounded, exact, steps, order=undecided, across=True)
    # Then the coarsest steps that bring the sum closer, followed by finer ones.
    steps = _steps(rounded, dtype)
    coarse = steps.argsort(dim=1, descending=True, stable=True)
    _balance(rounded, exact, steps, order=coarse, across=False)
    return rounded


def _steps(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the distance of each number to the next larger one in magnitude."""
    limits = torch.finfo(dtype)
    # Mantissas of frexp start at 0.5, so the step is half of what the exponent suggests.
    steps = torch.ldexp(torch.full_like(numbers, limits.eps / 2), torch.frexp(numbers).exponent)
    return steps.clamp(min=limits.smallest_normal * limits.eps)


def _balance(rounded: Tensor, exact: Tensor, steps: Tensor, *, order: Tensor, across: bool) -> None:
    """Moves numbers by one step, in the given order, if that brings the sum of their row closer to the exact sum.

    With ``across``, a number only moves to the other side of its exact value.
    """
    total = (rounded - exact).sum(dim=1)
    for column in order.T[:, :, None]:
        step = -total.sign() * steps.gather(1, column).squeeze(1)
        moves = (total + step).abs() < total.abs()
        if across:
            moves &= (rounded - exact).gather(1, column).squeeze(1) * step < 0
        change = torch.where(moves, step, 0.0)
        rounded.scatter_add_(1, column, change[:, None])
        total += change
