"""A network whose weights are half floats, rounded so that their errors cancel.

Neighboring pixels are much the same, and behind a ReLU6 all of them are positive, so that what counts most about the
errors of a channel's weights is their sum. With that at zero, no box of a trained SSDLite moves by more than 0.4 pixels
where the weights alone are halved; with every weight rounded to the nearest number some move by 3.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn

from mbv2kit.models.export_network import ExportNetwork


@torch.no_grad()
def round_to(network: ExportNetwork, dtype: torch.dtype) -> ExportNetwork:
    """Returns a copy whose weights are numbers of a narrower float type, and those of each channel add up as before.

    Args:
        network: With its norms folded; it is copied, and stays in float32.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
    """
    copy = deepcopy(network)
    for layer in copy.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rounded = _round_with_sums(layer.weight.flatten(1).double(), dtype)
            layer.weight.copy_(rounded.view_as(layer.weight))
    return copy


def _round_with_sums(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounds rows of numbers so that the sum of each stays."""
    rounded = exact.to(dtype).double()
    # What lies in the middle between two numbers is as good as the one as the other.
    steps = _steps(rounded, dtype)
    doubtful = ((rounded - exact).abs() / steps).argsort(dim=1, descending=True, stable=True)
    _balance(rounded, exact, steps, order=doubtful, across=True)
    # The rest of the sum is a matter of the coarsest step that brings it closer, and of finer ones.
    steps = _steps(rounded, dtype)
    coarse = steps.argsort(dim=1, descending=True, stable=True)
    _balance(rounded, exact, steps, order=coarse, across=False)
    return rounded


def _steps(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns how far each number of a type is from the next one above it in magnitude."""
    limits = torch.finfo(dtype)
    # frexp has mantissas from 0.5 up, so a step is half of what its exponent says.
    steps = torch.ldexp(torch.full_like(numbers, limits.eps / 2), torch.frexp(numbers).exponent)
    return steps.clamp(min=limits.smallest_normal * limits.eps)


def _balance(rounded: Tensor, exact: Tensor, steps: Tensor, *, order: Tensor, across: bool) -> None:
    """Moves numbers by a step each, in an order, where that brings the sum of their row closer to the exact one.

    ``across``: only those that come to lie on the other side of their exact value.
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
