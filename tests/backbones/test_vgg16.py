from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones import create_backbone
from mbv2kit.backbones.vgg16 import VGG16
from mbv2kit.errors import UserError

MAPS = {"conv1_2": (64, 1), "conv2_2": (128, 2), "conv3_3": (256, 4), "conv4_3": (512, 8), "conv5_3": (512, 16)}
MAPS |= {"pool5": (512, 32)}


def on_meta() -> VGG16:
    """A backbone that knows shapes but holds no numbers."""
    with torch.device("meta"):
        return VGG16()


def randomised() -> VGG16:
    backbone = VGG16().double().eval()
    for part in backbone.modules():
        if isinstance(part, nn.Conv2d):
            assert part.bias is not None
            nn.init.normal_(part.bias, std=0.3)
    return backbone


def test_thirteen_convolutions_cost_what_the_paper_and_torchvision_say() -> None:
    backbone = on_meta()
    convolutions = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 13
    assert sum(tensor.numel() for tensor in backbone.parameters()) == 14_714_688
    with FlopCounterMode(display=False) as counter:
        backbone(torch.empty(1, 3, 224, 224, device="meta"))
    # torchvision publishes 15.47 thousand million with the classifier, which has 124 million.
    assert counter.get_total_flops() / 2e9 + 0.124 == pytest.approx(15.47, abs=0.01)


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (95, 33)])
def test_it_is_torchvisions_network(size: tuple[int, int]) -> None:
    from torchvision.models import vgg16

    ours = randomised()
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
            current = layer(current)
            if index in (3, 8, 15, 22, 29, 30):
                expected[index] = current
    assert list(maps) == list(MAPS)
    for found, wanted in zip(maps.values(), expected.values(), strict=True):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted)


def test_the_maps_are_as_announced_and_odd_rows_are_dropped() -> None:
    backbone = on_meta()
    assert {info.name: (info.channels, info.stride) for info in backbone.feature_info} == MAPS
    maps = backbone(torch.empty(2, 3, 225, 193, device="meta"))
    for name, (channels, stride) in MAPS.items():
        assert maps[name].shape == (2, channels, 225 // stride, 193 // stride)


def test_maps_are_behind_their_relu_and_stay_as_they_were_computed() -> None:
    backbone = randomised()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        maps = backbone(images)
    for values in maps.values():
        assert values.min() == 0
    torch.testing.assert_close(maps["pool5"], F.max_pool2d(maps["conv5_3"], 2))


def test_selecting_maps_drops_the_layers_behind() -> None:
    backbone = on_meta()
    backbone.select({"conv4_3"})
    assert list(backbone.layers) == ["conv1_2", "conv2_2", "conv3_3", "conv4_3"]
    assert list(backbone(torch.empty(1, 3, 64, 64, device="meta"))) == ["conv4_3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.5}, r"backbone\.width must be 1\.0 \(there is no other VGG16\), got 0\.5\."),
        ({"output_stride": 16}, r"backbone\.output_stride must be 32 \(VGG16 has no dilated form\), got 16\."),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone("vgg16", **options)
