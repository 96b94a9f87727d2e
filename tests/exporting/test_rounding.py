from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv2kit.exporting.rounding import prepare_for_rounding
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.structures import TASKS
from tests.exporting.models import noise, small_model

SIZE = (64, 64)
DEAD_BIAS = 3.0


@pytest.fixture(scope="module")
def network() -> ExportNetwork:
    """Returns a network whose first channel in the first layer never varies."""
    network = ExportNetwork(small_model(*TASKS, padding="tf_same")).eval()
    first = layers(network)[0]
    assert first.bias is not None
    with torch.no_grad():
        first.weight[0], first.bias[0] = 1e-12, DEAD_BIAS
    return network


def layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None]


def steps(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return layer.weight.flatten(1).abs().amax(dim=1) / 127


def rounded(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Returns a layer with weights rounded to 8 bits, with a scale for each channel."""
    layer = deepcopy(layer)
    step = steps(layer).view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.copy_((layer.weight / step).round() * step)
    return layer


def inputs_of(network: nn.Module, images: NDArray[np.uint8]) -> list[Tensor]:
    """Returns the input of each layer."""
    found: dict[nn.Module, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: found.update({layer: inputs[0]}))
        for layer in layers(network)
    ]
    network(torch.from_numpy(images))
    for hook in hooks:
        hook.remove()
    return [found[layer] for layer in layers(network)]


def means(layer: nn.Module, inputs: Tensor) -> Tensor:
    outputs: Tensor = layer(inputs)
    return outputs.transpose(0, 1).flatten(1).mean(dim=1)


@torch.no_grad()
def test_rounded_weights_keep_the_mean_of_every_channel(network: ExportNetwork) -> None:
    images = np.stack(noise(3, SIZE))
    prepared = prepare_for_rounding(network, [image[None] for image in images])
    moved = 0.0
    for exact, corrected, inputs in zip(layers(network), layers(prepared), inputs_of(network, images), strict=True):
        wanted = means(exact, inputs)
        moved = max(moved, float((means(rounded(exact), inputs) - wanted).abs().max()))
        torch.testing.assert_close(means(rounded(corrected), inputs), wanted, rtol=1e-4, atol=1e-4)
    assert moved > 1e-3


@torch.no_grad()
def test_a_channel_that_never_varies_keeps_its_bias_within_32_bits(network: ExportNetwork) -> None:
    prepared = prepare_for_rounding(network, [image[None] for image in noise(2, SIZE)])
    before, after = layers(network)[0], layers(prepared)[0]
    assert before.bias is not None
    assert after.bias is not None
    # The step of inputs is 1 here, and that of the bias is this times the step of the weights.
    assert before.bias[0] / steps(before)[0] > 2**31
    assert (after.bias.abs() / steps(after) < 2**31).all()
    assert after.bias[0] == pytest.approx(DEAD_BIAS, rel=0.01)


@torch.no_grad()
def test_the_network_itself_is_unchanged(network: ExportNetwork) -> None:
    before = deepcopy(network.state_dict())
    prepare_for_rounding(network, [image[None] for image in noise(1, SIZE)])
    for name, values in network.state_dict().items():
        assert torch.equal(values, before[name])
