"""Counts the cost of a network independently of the toolkit: by forward hooks, on the meta device."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


def count(model: nn.Module, size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns the parameters and the multiply-adds of ``model`` for one image.

    Convolutions and linear layers have multiply-adds, nothing else has, as in the paper; the parameters are weights,
    biases and the two of every batch norm's channel. The model stays as it was.

    Args:
        model: What takes images ``(1, 3, height, width)`` as floats: a backbone, or a VisionModel.
        size: (height, width) of the image, or the side of a square one.
    """
    madds = 0

    def add(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal madds
        if isinstance(module, nn.Conv2d):
            madds += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            madds += output.numel() * module.in_features

    height, width = (size, size) if isinstance(size, int) else size
    copy = deepcopy(model).to("meta").eval()
    for module in copy.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        copy(torch.empty(1, 3, height, width, device="meta"))
    return sum(parameter.numel() for parameter in copy.parameters()), madds
