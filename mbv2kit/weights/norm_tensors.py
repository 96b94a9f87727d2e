"""Brings convolutions with a bias into the form of a ConvNormAct, whose batch norm does what the bias does."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mbv2kit.errors import UserError


def identity_norm(name: str, bias: Tensor, eps: float) -> dict[str, Tensor]:
    """Returns the tensors of a batch norm that adds a bias and does nothing else.

    Args:
        name: Name of the norm in the model.
        bias: ``(channels,)``.
        eps: Epsilon of the norm.
    """
    values = [torch.ones_like(bias), bias, torch.zeros_like(bias), torch.full_like(bias, 1 - eps)]
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{key}": value for key, value in zip(names, values, strict=True)}


def biases_into_norms(tensors: Mapping[str, Tensor], eps: float, source: str) -> dict[str, Tensor]:
    """Replaces the biases of convolutions by batch norms: a bias before a norm moves its mean.

    Args:
        tensors: Tensors by the names of the model, of which a ``ConvNormAct`` may have a ``conv.bias``.
        eps: Epsilon of the norms that are added where there is none.
        source: The file, for messages.

    Raises:
        UserError: A bias has another shape than the mean of its norm.
    """
    moved = dict(tensors)
    for name in tensors:
        if not name.endswith(".conv.bias"):
            continue
        bias, norm = moved.pop(name), f"{name.removesuffix('.conv.bias')}.norm"
        mean = tensors.get(f"{norm}.running_mean")
        if mean is not None:
            if mean.shape != bias.shape:
                raise UserError(
                    f"{source} has values of shape {tuple(bias.shape)} for '{name}', which must be {tuple(mean.shape)}."
                )
            moved[f"{norm}.running_mean"] = mean - bias
        elif f"{norm}.weight" not in tensors:
            moved |= identity_norm(norm, bias, eps)
    return moved
