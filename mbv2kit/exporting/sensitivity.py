"""Finds the layers that lose most by int8: each is rounded alone, and outputs are compared with those in float32."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.exporting.rounding import round_to_int8
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.structures import Image

# The network runs once for every layer on these images; they are enough for the order of the layers.
_IMAGES = 16
_LEAST_IMAGES = 4
_PIXELS = 2**20


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much the outputs change if only one layer computes in int8.

    Attributes:
        name: Name of the layer in the model.
        change: For probabilities, scores and boxes, the norm of the change divided by the norm of the output; for
            masks, the fraction of pixels whose class changes. The largest of all outputs.
    """

    name: str
    change: float


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    weighted: nn.Conv2d | nn.Linear
    last: nn.Module


@torch.no_grad()
def most_sensitive(network: ExportNetwork, images: Sequence[Image], count: int | None = None) -> list[Sensitivity]:
    """Finds the layers that lose most by int8, whatever the format.

    A layer's weights are rounded to signed 8 bits, with a scale for each output channel. Its output, after the
    activation, is rounded to 256 steps between its smallest and its largest value. Biases are not corrected, and the
    rounding of the sums of shortcuts is not counted.

    Args:
        network: Network in evaluation mode; it is unchanged afterwards.
        images: Inputs of the network, ``(H, W, 3)`` uint8. At most 16 of them, evenly spread, are used, and fewer if
            they are large.
        count: Number of layers to return; None returns all.

    Returns:
        The layers, the most sensitive one first.
    """
    height, width = network.size
    used = min(len(images), _IMAGES, max(_LEAST_IMAGES, _PIXELS // (height * width)))
    inputs = torch.from_numpy(np.stack([images[i] for i in evenly_spaced(len(images), used)]))
    layers = _layers(network)
    exact, ranges = _outputs_and_ranges(network, layers, inputs)
    found = []
    for layer in layers:
        with _rounded(layer, ranges[layer.name]):
            rounded = _outputs(network, inputs)
        change = max(_change(a, b) for a, b in zip(exact, rounded, strict=True))
        found.append(Sensitivity(layer.name, change))
    return sorted(found, key=lambda layer: -layer.change)[:count]


def _layers(network: nn.Module) -> list[_Layer]:
    """Lists the layers with weights, each with the module whose output is stored in int8: its activation, if any."""
    following: dict[nn.Module, nn.Module] = {}
    for part in network.modules():
        if isinstance(part, nn.Sequential):
            following.update({a: b for a, b in pairwise(part) if isinstance(b, nn.Identity | nn.ReLU | nn.ReLU6)})
    layers = []
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            last: nn.Module = part
            while last in following:
                last = following[last]
            layers.append(_Layer(name, part, last))
    return layers


def _outputs(network: ExportNetwork, inputs: Tensor) -> list[Tensor]:
    # On a CPU, single images take no longer than a batch, and less memory.
    outputs = [network(image[None]) for image in inputs]
    return [torch.cat(each) for each in zip(*outputs, strict=True)]


def _outputs_and_ranges(
    network: ExportNetwork, layers: Sequence[_Layer], inputs: Tensor
) -> tuple[list[Tensor], dict[str, tuple[float, float]]]:
    """Returns the outputs, and the smallest and largest value of each layer's output, between which zero lies."""
    ranges = {layer.name: (0.0, 0.0) for layer in layers}

    def watch(name: str, output: Tensor) -> None:
        least, greatest = ranges[name]
        ranges[name] = (min(least, output.min().item()), max(greatest, output.max().item()))

    handles = [
        layer.last.register_forward_hook(lambda _, __, output, name=layer.name: watch(name, output)) for layer in layers
    ]
    outputs = _outputs(network, inputs)
    for handle in handles:
        handle.remove()
    return outputs, ranges


@contextmanager
def _rounded(layer: _Layer, limits: tuple[float, float]) -> Iterator[None]:
    """Makes one layer compute as in int8."""
    weight = layer.weighted.weight
    kept = weight.clone()
    least, greatest = limits
    step = max((greatest - least) / 255, torch.finfo(torch.float32).tiny)
    zero = round(-least / step)
    handle = layer.last.register_forward_hook(
        lambda _, __, output: torch.fake_quantize_per_tensor_affine(output, step, zero, 0, 255)
    )
    weight.copy_(round_to_int8(kept))
    try:
        yield
    finally:
        weight.copy_(kept)
        handle.remove()


def _change(exact: Tensor, rounded: Tensor) -> float:
    if not exact.is_floating_point():
        return float((exact != rounded).float().mean())
    exact, rounded = exact.double(), rounded.double()
    return float((rounded - exact).norm() / exact.norm().clamp(min=torch.finfo(torch.float64).tiny))
