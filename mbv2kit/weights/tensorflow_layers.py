"""Turns layers of a published network into tensors of a model's blocks."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.weights.network_graph import Layer
from mbv2kit.weights.norm_tensors import identity_norm


def conv_norm_tensors(name: str, layer: Layer, eps: float) -> dict[str, Tensor]:
    """Returns the tensors of a ConvNormAct; without a norm of its own, the norm divides by 1 and adds the bias.

    Args:
        name: Name of the block in the model.
        layer: The layer.
        eps: Epsilon of the block's norm.
    """
    norm = layer.norm
    bias = torch.from_numpy(layer.bias)
    if norm is None:
        tensors = identity_norm(f"{name}.norm", bias, eps)
    else:
        # A bias before the norm moves the mean.
        arrays = (norm.weight, norm.bias, norm.mean - layer.bias, norm.variance + np.float32(norm.eps - eps))
        values = [torch.from_numpy(np.array(array, dtype=np.float32)) for array in arrays]
        names = ("weight", "bias", "running_mean", "running_var")
        tensors = {f"{name}.norm.{key}": value for key, value in zip(names, values, strict=True)}
    return {f"{name}.conv.weight": torch.from_numpy(layer.weight), **tensors}


def plain_tensors(name: str, layer: Layer) -> dict[str, Tensor]:
    """Returns the weight and the bias of a layer without norm.

    Raises:
        UserError: The layer has a norm.
    """
    if layer.norm is not None:
        raise UserError(f"its layer '{layer.name}' has a batch norm where no known network has one.")
    return {f"{name}.weight": torch.from_numpy(layer.weight), f"{name}.bias": torch.from_numpy(layer.bias)}


def norm_eps(layers: Iterable[Layer], usual: float) -> float:
    """Returns the epsilon of the norms of some layers; the smallest if they differ, ``usual`` if all are folded."""
    return min((layer.norm.eps for layer in layers if layer.norm is not None), default=usual)
