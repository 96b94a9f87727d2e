"""Prepares a network for 8-bit weights, for the formats that are written from PyTorch.

The errors of a channel's rounded weights do not cancel if its inputs are all positive, as they are after a ReLU6. They
shift the channel by a constant, which its bias can undo (Nagel et al., Data-Free Quantization Through Weight
Equalization and Bias Correction, arXiv 1906.04721, section 4.2; here with shifts measured on images).
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.structures import Image

# Weights become whole numbers from -127 to 127, symmetric about zero, with a step for each output channel.
LARGEST = 127
# Lower bound of a channel's largest weight, as a fraction of its bias. With inputs in steps of at least 0.003 the bias
# then fits into 32 bits, and the added weight changes the channel by at most 0.3 % of its bias.
_LEAST_WEIGHT = 2e-5
_IMAGES = 32

Layer = nn.Conv2d | nn.Linear


@torch.no_grad()
def prepare_for_rounding(network: ExportNetwork, batches: Sequence[Image]) -> ExportNetwork:
    """Returns a copy whose weights can be rounded to 8 bits: no bias overflows, and no channel's mean shifts.

    Batch norms may leave channels that never vary: their weights are near zero, and in the scale of such weights the
    bias would overflow.

    Args:
        network: Network with folded norms.
        batches: Inputs on which shifts are measured, ``(B, H, W, 3)`` uint8 each; only the first are used.
    """
    copy = deepcopy(network)
    layers = [layer for layer in copy.modules() if isinstance(layer, Layer) and layer.bias is not None]
    weights = [_with_bounded_weights(layer) for layer in layers]
    errors = [_error_of(layer, round_to_int8(weight)) for layer, weight in zip(layers, weights, strict=True)]
    # All shifts are measured before the first correction, so that each layer measures only its own error.
    shifts = _shifts(copy, layers, errors, batches[:_IMAGES])
    for layer, weight, shift in zip(layers, weights, shifts, strict=True):
        assert layer.bias is not None
        layer.weight.copy_(weight)
        layer.bias.sub_(shift)
    return copy


def round_to_int8(weight: Tensor) -> Tensor:
    """Rounds weights ``(channels, ...)`` to whole multiples of a step, with a step for each output channel.

    Gradients pass through unchanged.
    """
    steps = (weight.detach().flatten(1).abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(weight.dtype).tiny)
    zeros = torch.zeros_like(steps, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -LARGEST, LARGEST)


def _shifts(
    network: nn.Module, layers: Sequence[Layer], errors: Sequence[Layer], batches: Sequence[Image]
) -> list[Tensor]:
    """Returns for each layer by how much its error shifts the mean of each output channel."""
    sums = [torch.zeros(len(layer.weight)) for layer in layers]

    def measure(index: int, inputs: tuple[Tensor, ...]) -> None:
        added = errors[index](*inputs)
        sums[index] += added.mean([dim for dim in range(added.dim()) if dim != 1])

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, index=index: measure(index, inputs))
        for index, layer in enumerate(layers)
    ]
    for batch in batches:
        network(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    return [total / len(batches) for total in sums]


def _error_of(layer: Layer, rounded: Tensor) -> Layer:
    """Returns a layer that computes the change in a layer's output if its weights are rounded."""
    error = deepcopy(layer)
    assert error.bias is not None
    error.weight.copy_(rounded - layer.weight)
    error.bias.zero_()
    return error


def _with_bounded_weights(layer: Layer) -> Tensor:
    """Returns the weights, with the largest of each channel made large enough for the channel's bias."""
    assert layer.bias is not None
    weight = layer.weight.flatten(1)
    largest = weight.abs().argmax(dim=1, keepdim=True)
    value, least = weight.gather(1, largest), _LEAST_WEIGHT * layer.bias.abs()[:, None]
    return weight.scatter(1, largest, torch.where(value.abs() < least, least, value)).view_as(layer.weight)
