import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones import create_backbone
from mbv2kit.heads.classifier import Classifier
from mbv2kit.heads.ssd import SSD
from tests.backbones.build import maps_of, on_meta, randomized

NAME = "mobilenet_v1"

# The paper's tables 6 and 7: width, size -> million multiply-adds, million parameters.
PUBLISHED_COSTS = {
    (1.0, 224): (569, 4.2),
    (0.75, 224): (325, 2.6),
    (0.5, 224): (149, 1.3),
    (0.25, 224): (41, 0.5),
    (1.0, 192): (418, 4.2),
    (1.0, 160): (290, 4.2),
    (1.0, 128): (186, 4.2),
}


@pytest.mark.parametrize(("width", "size"), PUBLISHED_COSTS)
def test_costs_are_those_that_the_authors_published(width: float, size: int) -> None:
    backbone = on_meta(NAME, width=width)
    with torch.device("meta"):
        classifier = Classifier(backbone.feature_info, 1000)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(backbone(torch.empty(1, 3, size, size, device="meta")))
    parameters = sum(p.numel() for part in (backbone, classifier) for p in part.parameters())
    million_madds, million_parameters = PUBLISHED_COSTS[width, size]
    assert counter.get_total_flops() / 2e6 == pytest.approx(million_madds, abs=1)
    assert parameters / 1e6 == pytest.approx(million_parameters, abs=0.05)


def test_it_is_the_table_of_the_paper_written_down_once_more() -> None:
    backbone = randomized(NAME, width=0.5)
    state = backbone.state_dict()

    def block(x: Tensor, prefix: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{prefix}.conv.weight"], stride=stride, padding=padding, groups=groups)
        mean, variance, weight, bias = (
            state[f"{prefix}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3).clamp(0, 6)

    images = torch.randn(2, 3, 75, 98, dtype=torch.float64)
    maps = maps_of(backbone, images)
    current = block(images, "layers.layer_1", stride=2, padding=1)
    torch.testing.assert_close(maps["layer_1"], current)
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    channels = [32, 64, 64, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512]
    for k, (stride, out_channels) in enumerate(zip(strides, channels, strict=True), start=2):
        groups = current.shape[1]
        current = block(current, f"layers.layer_{k}.depthwise", stride=stride, padding=1, groups=groups)
        current = block(current, f"layers.layer_{k}.pointwise")
        assert current.shape[1] == out_channels
        torch.testing.assert_close(maps[f"layer_{k}"], current)


def test_ssdlite_reads_the_maps_that_the_paper_names() -> None:
    """MobileNetV1 + SSDLite of MobileNetV2's Table 6: 5.1 M parameters, 1.3 B multiply-adds."""
    backbone = on_meta(NAME)
    with torch.device("meta"):
        head = SSD(backbone.feature_info, 80).eval()
    assert head.features == ("layer_12", "layer_14")
    backbone.select(head.features)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        head(backbone(torch.empty(1, 3, 320, 320, device="meta")))
    assert sum(p.numel() for part in (backbone, head) for p in part.parameters()) / 1e6 == pytest.approx(5.1, abs=0.1)
    assert counter.get_total_flops() / 2e9 == pytest.approx(1.3, abs=0.05)


@pytest.mark.parametrize("width", [0.01, 0.25, 1.0])
def test_no_layer_has_fewer_than_eight_channels(width: float) -> None:
    assert min(info.channels for info in on_meta(NAME, width=width).feature_info) >= 8


@pytest.mark.parametrize(("name", "kind"), [("relu6", nn.ReLU6), ("relu", nn.ReLU)])
def test_the_activation_is_that_of_the_option(name: str, kind: type[nn.Module]) -> None:
    backbone = create_backbone("mobilenet_v1", width=0.25, activation=name)
    found = [part for part in backbone.modules() if isinstance(part, nn.ReLU | nn.ReLU6)]
    assert len(found) == 1 + 2 * 13
    assert all(isinstance(part, kind) for part in found)
