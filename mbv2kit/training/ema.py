"""A moving average of the weights, separate from the weights that are trained."""

from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage(nn.Module):
    """An exponential moving average of a model, as TensorFlow keeps it for the paper's networks.

    The average starts as a copy and soon forgets it: update n keeps a share of at most (1 + n) / (10 + n). Batch norm
    statistics are copied, not averaged. They are averages already, and an average of an average lags so far behind that
    the model of a short run predicts nothing in evaluation.

    Args:
        model: The model to follow.
        decay: Share of the average that each update keeps, in [0, 1).
    """

    updates: torch.Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards ``model``."""
        self.updates += 1
        count = int(self.updates)
        kept = min(self.decay, (1 + count) / (10 + count))
        move = get_ema_multi_avg_fn(kept)  # type: ignore[no-untyped-call]
        move(list(self.model.parameters()), list(model.parameters()), count)
        if buffers := list(model.buffers()):
            torch._foreach_copy_(list(self.model.buffers()), buffers)

    def train(self, mode: bool = True) -> "WeightAverage":
        """Stays in evaluation mode: the average is never trained."""
        return super().train(False)
