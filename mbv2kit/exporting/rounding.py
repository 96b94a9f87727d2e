"""A network made ready for weights of 8 bits, for the formats that start from PyTorch.

Where a channel's inputs are positive throughout, as they are behind a ReLU6, the errors of its rounded weights do not
cancel: the channel is shifted by a constant, which its bias can take back (Nagel et al., Data-Free Quantization Through
Weight Equalization and Bias Correction, arXiv 1906.04721, section 4.2; here with shifts measured on images).
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.structures import Image

# Weights become whole numbers from -127 to 127, so that zero lies in the middle, in steps of each output channel.
LARGEST = 127
# Of the bias, as the least that the largest weight of its channel may be. With inputs in steps of 0.003 and more the
# bias then fits into 32 bits, and the added weight changes the channel by 0.3 % of its bias at most.
_LEAST_WEIGHT = 2e-5
_IMAGES = 32

Layer = nn.Conv2d | nn.Linear


@torch.no_grad()
def prepare_for_rounding(network: ExportNetwork, batches: Sequence[Image]) -> ExportNetwork:
    """Returns a copy whose weights can be rounded to 8 bits: no bias overflows, and no channel's mean is shifted.

    Batch norms leave channels that never vary: the bias is all they have, and in the scale of weights next to nothing
    it would be cut off.

    Args:
        network: With its norms folded; it is copied.
        batches: Inputs to measure shifts on, ``(B, H, W, 3)`` uint8 each; the first few will do.
    """
    copy = deepcopy(network)
    layers = [layer for layer in copy.modules() if isinstance(layer, Layer) and layer.bias is not None]
    weights = [_with_a_least_weight(layer) for layer in layers]
    errors = [_error_alone(layer, round_to_int8(weight)) for layer, weight in zip(layers, weights, strict=True)]
    # All before the first is corrected, so that each measures its own error alone.
    shifts = _shifts(copy, layers, errors, batches[:_IMAGES])
    for layer, weight, shift in zip(layers, weights, shifts, strict=True):
        assert layer.bias is not None
        layer.weight.copy_(weight)
        layer.bias.sub_(shift)
    return copy


def round_to_int8(weight: Tensor) -> Tensor:
    """Rounds weights, ``(channels, ...)``, to whole numbers of steps, a step for each output channel.

    Gradients pass through as if nothing were rounded.
    """
    steps = (weight.detach().flatten(1).abs().amax(dim=1) / LARGEST).clamp(min=torch.finfo(weight.dtype).tiny)
    zeros = torch.zeros_like(steps, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -LARGEST, LARGEST)


def _shifts(
    network: nn.Module, layers: Sequence[Layer], errors: Sequence[Layer], batches: Sequence[Image]
) -> list[Tensor]:
    """Returns for each layer the mean, channel by channel, of what its error adds to its results."""
    sums = [torch.zeros(len(layer.weight)) for layer in layers]

    def measure(place: int, inputs: tuple[Tensor, ...]) -> None:
        added = errors[place](*inputs)
        sums[place] += added.mean([dim for dim in range(added.dim()) if dim != 1])

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, place=place: measure(place, inputs))
        for place, layer in enumerate(layers)
    ]
    for batch in batches:
        network(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    return [total / len(batches) for total in sums]


def _error_alone(layer: Layer, rounded: Tensor) -> Layer:
    """Returns a layer that computes what other weights add to a layer's results."""
    error = deepcopy(layer)
    assert error.bias is not None
    error.weight.copy_(rounded - layer.weight)
    error.bias.zero_()
    return error


def _with_a_least_weight(layer: Layer) -> Tensor:
    """Returns the weights, the largest of each channel made large enough for the channel's bias."""
    assert layer.bias is not None
    weight = layer.weight.flatten(1)
    largest = weight.abs().argmax(dim=1, keepdim=True)
    value, least = weight.gather(1, largest), _LEAST_WEIGHT * layer.bias.abs()[:, None]
    return weight.scatter(1, largest, torch.where(value.abs() < least, least, value)).view_as(layer.weight)
