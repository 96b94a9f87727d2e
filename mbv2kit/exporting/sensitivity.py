"""Which layers suffer most from int8: each is rounded alone, and the answers are compared with those of the floats."""

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

# Enough for the order of the layers, which is all that is asked for: the network runs once for every layer.
_IMAGES = 16
_LEAST_IMAGES = 4
_PIXELS = 2**20


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How much the answers change when one layer alone computes in int8.

    Attributes:
        name: Of the layer with weights, as the model calls it.
        figure: For probabilities, scores and boxes the change in proportion to the answer, both as the root of the sum
            of squares; for masks the share of the pixels that get another class. Of several answers the largest.
    """

    name: str
    figure: float


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    weighted: nn.Conv2d | nn.Linear
    last: nn.Module


@torch.no_grad()
def most_sensitive(network: ExportNetwork, images: Sequence[Image], count: int | None = None) -> list[Sensitivity]:
    """Finds the layers that int8 hurts most, in whichever format.

    A layer's weights are rounded to signed 8 bits, with a scale for each output channel, and what it hands on, behind
    its activation, to 256 steps between the least and the greatest value seen; no bias makes up for anything. What the
    sum of a shortcut loses is in no layer's figure.

    Args:
        network: In evaluation mode; as it was when this returns.
        images: Inputs of the network, ``(H, W, 3)`` uint8; at most 16 of them, evenly spread, are looked at, and fewer
            where they are large.
        count: How many layers to name; None for all.

    Returns:
        The layers, the most sensitive one first.
    """
    height, width = network.size
    shown = min(len(images), _IMAGES, max(_LEAST_IMAGES, _PIXELS // (height * width)))
    inputs = torch.from_numpy(np.stack([images[i] for i in evenly_spaced(len(images), shown)]))
    layers = _layers(network)
    exact, ranges = _answers_and_ranges(network, layers, inputs)
    found = []
    for layer in layers:
        with _rounded(layer, ranges[layer.name]):
            rounded = _outputs(network, inputs)
        figure = max(_change(a, b) for a, b in zip(exact, rounded, strict=True))
        found.append(Sensitivity(layer.name, figure))
    return sorted(found, key=lambda layer: -layer.figure)[:count]


def _layers(network: nn.Module) -> list[_Layer]:
    """Lists the layers with weights, each with the module whose output int8 stores: its activation, if it has one."""
    behind: dict[nn.Module, nn.Module] = {}
    for part in network.modules():
        if isinstance(part, nn.Sequential):
            behind.update({a: b for a, b in pairwise(part) if isinstance(b, nn.Identity | nn.ReLU | nn.ReLU6)})
    layers = []
    for name, part in network.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            last: nn.Module = part
            while last in behind:
                last = behind[last]
            layers.append(_Layer(name, part, last))
    return layers


def _outputs(network: ExportNetwork, inputs: Tensor) -> list[Tensor]:
    # One by one takes no longer on a CPU, and no memory to speak of.
    outputs = [network(image[None]) for image in inputs]
    return [torch.cat(each) for each in zip(*outputs, strict=True)]


def _answers_and_ranges(
    network: ExportNetwork, layers: Sequence[_Layer], inputs: Tensor
) -> tuple[list[Tensor], dict[str, tuple[float, float]]]:
    """Returns the answers, and the least and the greatest value that each layer hands on; zero is always between."""
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
    """Lets one layer compute as int8 would."""
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
