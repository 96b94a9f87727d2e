"""A moving average of the weights, separate from the weights that are trained."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """An exponential moving average of a model, as TensorFlow keeps it for the paper's networks.

    The average starts as a copy and soon forgets it: update n keeps a share of at most (1 + n) / (10 + n). Batch norm
    statistics are copied, not averaged. They are averages already, and an average of an average lags so far behind that
    the model of a short run predicts nothing in evaluation.

    Args:
        model: The model to follow.
        decay: Share of the average that each update keeps, in [0, 1).
    """

    updates: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, model: nn.Module, counts: Tensor) -> None:
        """Moves the average towards ``model``.

        Args:
            model: The model to follow.
            counts: Whether the step counts after which this is called, a bool on the device of the model.
        """
        self.updates += counts
        averages: list[Tensor] = list(self.model.parameters())
        weight = (9 / (10 + self.updates.to(averages[0].dtype))).clamp(min=1 - self.decay) * counts
        moves = torch._foreach_sub(list(model.parameters()), averages)
        torch._foreach_mul_(moves, weight)
        torch._foreach_add_(averages, moves)
        if buffers := list(model.buffers()):
            torch._foreach_copy_(list(self.model.buffers()), buffers)

    def train(self, mode: bool = True) -> "WeightAverage":
        """Stays in evaluation mode: the average is never trained."""
        return super().train(False)
