from math import ceil
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones.vgg16 import VGG16
from tests.backbones.build import on_meta

NAME = "vgg16"

MAPS = {"conv1_2": (64, 1), "conv2_2": (128, 2), "conv3_3": (256, 4), "conv4_3": (512, 8), "conv5_3": (512, 16)}
MAPS |= {"pool5": (512, 32)}


def randomized(**options: Any) -> VGG16:
    backbone = VGG16(**options).double().eval()
    for part in backbone.modules():
        if isinstance(part, nn.Conv2d):
            assert part.bias is not None
            nn.init.normal_(part.bias, std=0.3)
    return backbone


def test_thirteen_convolutions_cost_what_the_paper_and_torchvision_say() -> None:
    backbone = on_meta(NAME)
    convolutions = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 13
    assert sum(tensor.numel() for tensor in backbone.parameters()) == 14_714_688
    with FlopCounterMode(display=False) as counter:
        backbone(torch.empty(1, 3, 224, 224, device="meta"))
    # torchvision publishes 15.47 thousand million with the classifier, which has 124 million.
    assert counter.get_total_flops() / 2e9 + 0.124 == pytest.approx(15.47, abs=0.01)


@pytest.mark.parametrize("ceil_pooling", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (95, 33)])
def test_it_is_torchvisions_network_but_for_the_rounding(size: tuple[int, int], ceil_pooling: bool) -> None:
    from torchvision.models import vgg16

    ours = randomized(ceil_pooling=ceil_pooling)
    with torch.device("meta"):
        theirs = vgg16().features
    numbers = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), numbers, strict=True)), assign=True)
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        maps = ours(images)
        current = images
        # Positions of the last ReLU before each max pooling, and of the last max pooling.
        expected = {}
        for index, layer in enumerate(theirs):
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = ceil_pooling
            current = layer(current)
            if index in (3, 8, 15, 22, 29, 30):
                expected[index] = current
    assert list(maps) == list(MAPS)
    for found, wanted in zip(maps.values(), expected.values(), strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted)


def test_the_maps_are_as_announced_and_odd_rows_are_kept_unless_it_is_said_otherwise() -> None:
    backbone, floored = on_meta(NAME), on_meta(NAME, ceil_pooling=False)
    assert {info.name: (info.channels, info.stride) for info in backbone.feature_info} == MAPS
    images = torch.empty(2, 3, 225, 193, device="meta")
    maps, floored_maps = backbone(images), floored(images)
    for name, (channels, stride) in MAPS.items():
        assert maps[name].shape == (2, channels, ceil(225 / stride), ceil(193 / stride))
        assert floored_maps[name].shape == (2, channels, 225 // stride, 193 // stride)


def test_the_smallest_image_has_maps_of_one_step() -> None:
    for values in on_meta(NAME)(torch.empty(1, 3, 1, 1, device="meta")).values():
        assert values.shape[2:] == (1, 1)


def test_at_multiples_of_32_both_poolings_are_the_same_network() -> None:
    ceiled, floored = randomized(), VGG16(ceil_pooling=False).double().eval()
    floored.load_state_dict(ceiled.state_dict())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(ceiled(images).values(), floored(images).values(), strict=True):
            assert torch.equal(found, expected)


def test_maps_are_behind_their_relu_and_stay_as_they_were_computed() -> None:
    backbone = randomized()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        maps = backbone(images)
    for values in maps.values():
        assert values.min() == 0
    torch.testing.assert_close(maps["pool5"], F.max_pool2d(maps["conv5_3"], 2))
