"""ReLU6 that keeps one map for the gradients where torch's keeps two."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ReLU6(nn.ReLU6):
    """Clips to 0..6, in training in place of its input, which nothing else may need.

    torch keeps the input for the gradients, and the next layer keeps the output. The output suffices for both, since it
    tells where the input was clipped, so the numbers are the same. A norm in front does not need its own output.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Clips ``input``, of any shape."""
        # Exporters and the analysis of graphs know torch's own operation.
        return _Clip.apply(input) if self.training and input.requires_grad else F.relu6(input)


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        output = F.relu6(input, inplace=True)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, output, 0.0, 6.0)
        return passed
