import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.heads.classifier import Classifier
from tests.backbones.build import maps_of, on_meta, randomized

NAME = "resnet_101"


def test_costs_are_those_that_torchvision_publishes() -> None:
    from torchvision.models import ResNet101_Weights

    published = ResNet101_Weights.IMAGENET1K_V1.meta
    backbone = on_meta(NAME)
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

    ours = randomized(NAME, output_stride=output_stride)
    theirs = resnet101(replace_stride_with_dilation=[stage in dilated for stage in (2, 3, 4)]).double().eval()
    numbers = list(ours.state_dict().values())
    names = [name for name in theirs.state_dict() if not name.startswith("fc")]
    theirs.load_state_dict(dict(zip(names, numbers, strict=True)), strict=False)
    images = torch.randn(1, 3, 49, 70, dtype=torch.float64)
    maps = maps_of(ours, images)
    with torch.no_grad():
        current = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        torch.testing.assert_close(maps["stem"], current)
        for stage in (1, 2, 3, 4):
            current = getattr(theirs, f"layer{stage}")(current)
            assert current.std() > 0.1
            torch.testing.assert_close(maps[f"stage_{stage}"], current)
