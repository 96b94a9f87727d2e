"""Combines the gradients of several heads on what they share, where they disagree, with TorchJD."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError

if TYPE_CHECKING:
    from torchjd.aggregation import Aggregator

Method = Literal["pcgrad", "upgrad", "mgda"]


class GradientCombination:
    """The backward pass of several losses, whose gradients on the backbone are combined instead of added up.

    * ``pcgrad`` takes from each gradient what points against another one (Yu et al., arXiv 2001.06782).
    * ``upgrad`` projects each onto what worsens no loss, and averages (Quinton and Rey, arXiv 2406.16232).
    * ``mgda`` takes the shortest of their weighted means (Sener and Koltun, arXiv 1810.04650).

    What belongs to one head gets the gradient of the sum of the losses, as always. A step takes a pass back through the
    backbone for each head.

    Args:
        method: How to combine.
        shared: What the heads share.
        others: What else is trained.

    Raises:
        UserError: The package torchjd is missing.
    """

    def __init__(self, method: Method, shared: Iterable[nn.Parameter], others: Iterable[nn.Parameter]) -> None:
        self._aggregator = _create(method)
        self._shared = [parameter for parameter in shared if parameter.requires_grad]
        self._others = [parameter for parameter in others if parameter.requires_grad]

    def backward(self, losses: Sequence[Tensor]) -> None:
        """Sets the gradients of a step, as ``backward()`` of the sum does.

        Args:
            losses: The weighted loss of each head.
        """
        rows = [
            torch.autograd.grad(loss, self._shared, retain_graph=True, allow_unused=True, materialize_grads=True)
            for loss in losses
        ]
        torch.stack(list(losses)).sum().backward(inputs=self._others)  # type: ignore[no-untyped-call]
        jacobian = torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])
        sizes = [parameter.numel() for parameter in self._shared]
        parts = torch.split(self._aggregator(jacobian), sizes)
        for parameter, part in zip(self._shared, parts, strict=True):
            # In the parameter's memory layout, which fused optimizers rely on.
            parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))


def _create(method: Method) -> "Aggregator":
    try:
        from torchjd.aggregation import MGDA, PCGrad, UPGrad
    except ImportError:
        raise UserError(f"gradients={method} needs the package torchjd: pip install 'mbv2kit[multitask]'.") from None
    methods: Mapping[str, Callable[[], Aggregator]] = {"pcgrad": PCGrad, "upgrad": UPGrad, "mgda": MGDA}
    return methods[method]()
