from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones import create_backbone
from mbv2kit.backbones.resnet import ResNet101
from mbv2kit.errors import UserError
from mbv2kit.heads.classifier import Classifier
from tests.norms import randomize_norms


def on_meta(**options: Any) -> ResNet101:
    """A backbone that knows shapes but holds no numbers."""
    with torch.device("meta"):
        return ResNet101(**options).eval()


def randomized(**options: Any) -> ResNet101:
    """A backbone in evaluation mode whose every number matters; its maps are of order one."""
    backbone = ResNet101(**options).double().eval()
    randomize_norms(backbone)
    for name, part in backbone.named_modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in")
        # What 33 blocks add up grows with every one of them.
        elif name.endswith("bn3"):
            nn.init.uniform_(part.weight, 0.1, 0.3)
    return backbone


def see(backbone: ResNet101, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        maps: dict[str, Tensor] = backbone(images)
        return maps


def test_costs_are_those_that_torchvision_publishes() -> None:
    from torchvision.models import ResNet101_Weights

    published = ResNet101_Weights.IMAGENET1K_V1.meta
    backbone = on_meta()
    with torch.device("meta"):
        classifier = Classifier(backbone.feature_info, 1000)
    parameters = sum(tensor.numel() for part in (backbone, classifier) for tensor in part.parameters())
    assert parameters == published["num_params"] == 44_549_160
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(backbone(torch.empty(1, 3, 224, 224, device="meta")))
    assert counter.get_total_flops() / 2e9 == pytest.approx(published["_ops"], abs=0.001)


@pytest.mark.parametrize(("output_stride", "dilated"), [(32, []), (16, [4]), (8, [3, 4])])
def test_it_is_torchvisions_network(output_stride: int, dilated: list[int]) -> None:
    from torchvision.models import resnet101

    ours = randomized(output_stride=output_stride)
    theirs = resnet101(replace_stride_with_dilation=[stage in dilated for stage in (2, 3, 4)]).double().eval()
    numbers = list(ours.state_dict().values())
    names = [name for name in theirs.state_dict() if not name.startswith("fc")]
    theirs.load_state_dict(dict(zip(names, numbers, strict=True)), strict=False)
    images = torch.randn(1, 3, 49, 70, dtype=torch.float64)
    maps = see(ours, images)
    with torch.no_grad():
        current = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        torch.testing.assert_close(maps["stem"], current)
        for stage in (1, 2, 3, 4):
            current = getattr(theirs, f"layer{stage}")(current)
            assert current.std() > 0.1
            torch.testing.assert_close(maps[f"stage_{stage}"], current)


@pytest.mark.parametrize("size", [(65, 97), (64, 71)])
def test_dilation_gives_the_strided_maps_and_those_between(size: tuple[int, int]) -> None:
    strided = randomized()
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = see(strided, images)["stage_4"]
    for output_stride in (16, 8):
        dilated = ResNet101(output_stride=output_stride).double().eval()
        dilated.load_state_dict(strided.state_dict())
        found = see(dilated, images)["stage_4"]
        step = 32 // output_stride
        assert found.shape[2] > expected.shape[2]
        torch.testing.assert_close(found[..., ::step, ::step], expected)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(224, 224), (225, 193), (33, 1)])
def test_the_maps_are_as_announced_for_inputs_of_any_size(output_stride: int, size: tuple[int, int]) -> None:
    backbone = on_meta(output_stride=output_stride)
    assert [info.stride for info in backbone.feature_info] == [4, 4, 8, min(16, output_stride), output_stride]
    maps = backbone(torch.empty(1, 3, *size, device="meta"))
    assert list(maps) == ["stem", "stage_1", "stage_2", "stage_3", "stage_4"]
    for info in backbone.feature_info:
        assert maps[info.name].shape == (1, info.channels, -(-size[0] // info.stride), -(-size[1] // info.stride))


def test_selecting_maps_drops_the_stages_behind() -> None:
    backbone = on_meta()
    backbone.select({"stage_2"})
    assert list(backbone.layers) == ["stem", "stage_1", "stage_2"]
    assert list(backbone(torch.empty(1, 3, 64, 64, device="meta"))) == ["stage_2"]


def test_norms_have_the_epsilon_and_momentum_asked_for() -> None:
    for options, expected in (({}, (1e-5, 0.1)), ({"norm_eps": 0.25, "norm_momentum": 0.5}, (0.25, 0.5))):
        norms = [part for part in on_meta(**options).modules() if isinstance(part, nn.BatchNorm2d)]
        assert len(norms) == 104
        assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.5}, r"^width must be 1\.0 \(there is no other ResNet-101\), got 0\.5\."),
        ({"output_stride": 4}, r"^output_stride must be 8, 16 or 32, got 4\."),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone("resnet_101", **options)
