"""How the losses of several heads become one: fixed weights, or weights that are learned."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError, nearest
from mbv2kit.structures import Task

UNCERTAINTY = "uncertainty"


class FixedWeights(nn.Module):
    """A weighted sum of the losses of the heads.

    Careful comparisons find that fixed weights match the methods that adapt them (Kurin et al. 2022, "In defense of the
    unitary scalarization for deep multi-task learning").

    Args:
        weights: Weight of each head; those that are missing have 1.
    """

    def __init__(self, weights: Mapping[Task, float]) -> None:
        super().__init__()
        self._weights = dict(weights)

    def forward(self, losses: Mapping[Task, Tensor]) -> Tensor:
        """Returns the sum of scalar losses."""
        return torch.stack([self._weights.get(task, 1.0) * loss for task, loss in losses.items()]).sum()


class UncertaintyWeights(nn.Module):
    """Weights that are learned as the variance of each task's noise (Kendall et al. 2018, equation 10).

    A loss counts as ``exp(-s) * loss + s / 2``, where ``s`` is the logarithm of the variance and starts at 0.

    Args:
        tasks: The heads.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.log_variances = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in tasks})

    def forward(self, losses: Mapping[Task, Tensor]) -> Tensor:
        """Returns the sum of scalar losses."""
        variances = self.log_variances
        return torch.stack(
            [(-variances[task]).exp() * loss + variances[task] / 2 for task, loss in losses.items()]
        ).sum()


def create_weights(
    config: Mapping[Task, float] | str | None, tasks: Sequence[Task]
) -> FixedWeights | UncertaintyWeights:
    """Returns what adds up the losses of the heads.

    Args:
        config: A weight for each head, "uncertainty", or None for equal weights.
        tasks: The heads.

    Raises:
        UserError: A head is none of the model's, or the name is unknown.
    """
    if isinstance(config, str):
        if config != UNCERTAINTY:
            raise UserError(
                f"loss_weights must be {UNCERTAINTY}, null, or a weight for each head such as {{{tasks[0]}: 0.5}}, got "
                f"'{config}'."
            )
        return UncertaintyWeights(tasks)
    for task in config or {}:
        if task not in tasks:
            raise UserError(f"loss_weights.{task}: the model has no such head.{nearest(task, tasks)}")
    return FixedWeights(config or {})
