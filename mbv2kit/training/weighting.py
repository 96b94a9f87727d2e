"""How the losses of several heads become one: fixed weights, or weights that are learned."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError, nearest
from mbv2kit.nn.tensors import sum_of

UNCERTAINTY = "uncertainty"


class FixedWeights(nn.Module):
    """A weighted sum of the losses of the heads.

    Careful comparisons find that fixed weights match the methods that adapt them (Kurin et al. 2022, "In defense of the
    unitary scalarization for deep multi-task learning").

    Args:
        weights: Weight of each head; those that are missing have 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self._weights = dict(weights)

    def forward(self, losses: Mapping[str, Tensor], share: Tensor | float = 1.0) -> Tensor:
        """Returns the sum of scalar losses, each of which is a share of that of a step."""
        return sum_of(share * self._weights.get(head, 1.0) * loss for head, loss in losses.items())


class UncertaintyWeights(nn.Module):
    """Weights that are learned as the variance of each task's noise (Kendall et al. 2018, equation 10).

    A loss counts as ``exp(-s) * loss + s / 2``, where ``s`` is the logarithm of the variance and starts at 0.

    Args:
        heads: The heads.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__()
        self.log_variances = nn.ParameterDict({head: nn.Parameter(torch.zeros(())) for head in heads})

    def forward(self, losses: Mapping[str, Tensor], share: Tensor | float = 1.0) -> Tensor:
        """Returns the sum of scalar losses, each of which is a share of that of a step."""
        variances = self.log_variances
        return sum_of(share * ((-variances[head]).exp() * loss + variances[head] / 2) for head, loss in losses.items())


def create_weights(config: Mapping[str, float] | str | None, heads: Sequence[str]) -> FixedWeights | UncertaintyWeights:
    """Returns what adds up the losses of the heads.

    Args:
        config: A weight for each head, "uncertainty", or None for equal weights.
        heads: The heads.

    Raises:
        UserError: A head is none of the model's, or the name is unknown.
    """
    if isinstance(config, str):
        if config != UNCERTAINTY:
            raise UserError(
                f"loss_weights must be {UNCERTAINTY}, null, or a weight for each head such as {{{heads[0]}: 0.5}}, got "
                f"'{config}'."
            )
        return UncertaintyWeights(heads)
    for head in config or {}:
        if head not in heads:
            raise UserError(f"loss_weights.{head}: the model has no such head.{nearest(head, heads)}")
    return FixedWeights(config or {})
