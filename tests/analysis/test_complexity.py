from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.analysis.complexity import complexity, graph_complexity
from mbv2kit.analysis.graph import build_on_meta, trace
from mbv2kit.backbones import create_backbone, list_backbones
from mbv2kit.errors import UserError
from mbv2kit.heads import create_head, list_heads
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, ConvStyle
from tests.counting import count


def build(backbone: str, head: str, classes: int, *, head_options: Any = None, **backbone_options: Any) -> VisionModel:
    with torch.device("meta"):
        features = create_backbone(backbone, **backbone_options).feature_info
        task = create_head(head, features, classes, **(head_options or {})).task
    return build_on_meta(
        ModelSpec(
            backbone={"name": backbone, **backbone_options},
            heads={task: {"name": head, **(head_options or {})}},
            class_names={task: tuple(map(str, range(classes)))},
            input=Preprocess((224, 224)),
        )
    )


def fitting_pairs() -> list[tuple[str, str]]:
    pairs = []
    with torch.device("meta"):
        for backbone in list_backbones():
            features = create_backbone(backbone).feature_info
            for head in list_heads():
                try:
                    create_head(head, features, 2)
                except UserError:
                    continue
                pairs.append((backbone, head))
    return pairs


@pytest.mark.parametrize(
    ("backbone", "head", "classes", "size", "parameters", "madds"),
    [
        ("mobilenet_v2", "classifier", 1000, 224, 3_504_872, 300_774_272),
        ("mobilenet_v1", "classifier", 1000, 224, 4_231_976, 568_740_352),
        ("resnet_101", "classifier", 1000, 224, 44_549_160, 7_801_405_440),
        ("vgg16", "vgg_classifier", 1000, 224, 138_357_544, 15_470_264_320),
        ("mobilenet_v2", "ssdlite", 80, 320, 4_337_013, 788_830_144),
    ],
)
def test_counts_have_the_known_values(
    backbone: str, head: str, classes: int, size: int, parameters: int, madds: int
) -> None:
    cost = complexity(build(backbone, head, classes), (size, size))
    assert (cost.parameters, cost.madds) == (parameters, madds)


def test_without_its_norms_mobilenet_v2_has_the_papers_parameters() -> None:
    cost = complexity(build("mobilenet_v2", "classifier", 1000), (224, 224))
    assert cost.parameters - cost.norm_parameters == 3_470_760


@pytest.mark.parametrize(
    ("backbone", "options", "output_stride", "plain", "padded"),
    [
        ("mobilenet_v2", {}, 16, 2.7407, 2.7424),
        ("mobilenet_v2", {"aspp": True}, 16, 5.3635, 5.8231),
        ("mobilenet_v1", {"aspp": True, "feature": "last"}, 16, 12.7609, 14.2266),
    ],
)
def test_space_to_batch_counts_dilation_as_tensorflow_runs_it(
    backbone: str, options: dict[str, Any], output_stride: int, plain: float, padded: float
) -> None:
    """Table 7's billions of multiply-adds."""
    model = build(backbone, "deeplab_v3", 21, head_options=options, output_stride=output_stride)
    assert round(complexity(model, (513, 513)).madds / 1e9, 4) == plain
    assert round(complexity(model, (513, 513), space_to_batch=True).madds / 1e9, 4) == padded


def test_without_dilation_space_to_batch_changes_nothing() -> None:
    for backbone, head in [("mobilenet_v2", "ssdlite"), ("mobilenet_v2", "deeplab_v3"), ("resnet_101", "classifier")]:
        model = build(backbone, head, 3)
        assert complexity(model, (97, 130)) == complexity(model, (97, 130), space_to_batch=True)
    dilated = nn.Conv2d(3, 5, (3, 1), dilation=(4, 6), padding=(4, 0))
    assert complexity(dilated, (9, 9)).madds == 9 * 9 * 5 * 3 * 3
    # Only the rows are padded, from 9 to 12: along the other dimension the kernel has size 1.
    assert complexity(dilated, (9, 9), space_to_batch=True).madds == 12 * 9 * 5 * 3 * 3


@pytest.mark.parametrize(("backbone", "head"), fitting_pairs())
def test_hooks_count_the_same_on_every_model_and_folding_changes_only_parameters(backbone: str, head: str) -> None:
    model = build(backbone, head, 3)
    cost, folded = complexity(model, (320, 320)), complexity(model, (320, 320), folded=True)
    parameters, madds = count(model, 320)
    assert cost.madds == folded.madds == madds
    assert cost.parameters == parameters
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert cost.norm_parameters == sum(2 * norm.num_features for norm in norms)
    # A folded norm leaves one bias per channel of its scale and shift; norms without a convolution before them stay.
    assert folded.parameters == cost.parameters - (cost.norm_parameters - folded.norm_parameters) // 2


def test_folded_ssdlite_has_the_size_of_the_released_model() -> None:
    """OpenVINO's list of models has 4.475 M parameters and 1.525 GFLOPs, two operations per multiply-add."""
    cost = complexity(build("mobilenet_v2", "ssdlite", 90), (300, 300), folded=True)
    assert (round(cost.parameters / 1e6, 3), cost.norm_parameters) == (4.475, 0)
    assert cost.madds == pytest.approx(1.525e9 / 2, rel=0.02)


def test_layers_come_in_order_with_their_kinds() -> None:
    cost = complexity(build("mobilenet_v2", "classifier", 1000), (224, 224))
    assert [(layer.kind, layer.output_shape, layer.parameters, layer.madds) for layer in cost.layers[:5]] == [
        ("3 x 3 conv", (1, 32, 112, 112), 864, 10_838_016),
        ("batch norm", (1, 32, 112, 112), 64, 0),
        ("3 x 3 depthwise conv", (1, 32, 112, 112), 288, 3_612_672),
        ("batch norm", (1, 32, 112, 112), 64, 0),
        ("1 x 1 conv", (1, 16, 112, 112), 512, 6_422_528),
    ]
    assert cost.layers[2].module == "backbone.layers.layer_2.depthwise.conv"
    last = cost.layers[-1]
    assert (last.module, last.kind, last.output_shape) == ("heads.classification.linear", "linear", (1, 1000))
    assert (last.parameters, last.madds) == (1_281_000, 1_280_000)
    # Table 2: 53 convolutions and linear layers, 17 bottlenecks.
    assert sum(layer.madds > 0 for layer in cost.layers) == 53
    assert sum("depthwise" in layer.kind for layer in cost.layers) == 17


def test_a_module_that_runs_twice_counts_twice_in_multiply_adds_and_once_in_parameters() -> None:
    block = ConvNormAct(3, 3, 3, style=ConvStyle())
    for folded, parameters in [(False, 81 + 6), (True, 81 + 3)]:
        cost = complexity(nn.Sequential(block, block), (8, 8), folded=folded)
        assert (cost.parameters, cost.madds) == (parameters, 2 * 81 * 64)


def test_a_convolution_that_two_norms_share_becomes_two() -> None:
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3, affine=False))
    assert complexity(model, (8, 8)).parameters == 9 + 3 + 6
    assert complexity(model, (8, 8), folded=True).parameters == 2 * (9 + 3)


class Net(nn.Module):
    """Two 4 x 4 weights in an arbitrary function."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.a, self.b)


@pytest.mark.parametrize(
    ("function", "parameters", "madds"),
    [
        (lambda x, a, b: F.conv2d(x, a[:3, :1, None, None].expand(-1, 3, -1, -1)), 16, 4 * 4 * 3 * 3),
        (lambda x, a, b: F.conv2d(x, a[:3, :1, None, None], groups=3), 16, 4 * 4 * 3),
        (lambda x, a, b: F.conv_transpose2d(x, a[:3, :2, None, None], stride=2), 16, 4 * 4 * 3 * 2),
        (lambda x, a, b: F.conv1d(x.flatten(2), a[:3, :3, None], b[:3]), 20, 16 * 3 * 3),
        (lambda x, a, b: F.linear(x, a, b), 20, 3 * 4 * 4 * 4),
        (lambda x, a, b: x @ a, 16, 3 * 4 * 4 * 4),
        (lambda x, a, b: x @ x.transpose(2, 3), 0, 3 * 4 * 4 * 4),
        (lambda x, a, b: torch.baddbmm(x[0], x[0], x[0]), 0, 3 * 4 * 4 * 4),
        (lambda x, a, b: F.interpolate(F.avg_pool2d(x, 2) * b[0] + x.mean(), scale_factor=2.0), 4, 0),
    ],
    ids=["conv", "groups", "transposed", "1d", "linear", "product", "attention", "added", "nothing"],
)
def test_functions_are_counted_like_modules(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], parameters: int, madds: int
) -> None:
    cost = complexity(Net(function), (4, 4))
    assert cost.madds == madds
    used = sum(layer.parameters for layer in cost.layers if layer.kind != "unused")
    assert (used, cost.parameters) == (parameters, 20)


def test_the_cost_is_for_one_image() -> None:
    model = build("mobilenet_v2", "classifier", 10, width=0.35)
    assert graph_complexity(trace(model, (64, 64), batch=3)).madds == 3 * complexity(model, (64, 64)).madds


def test_the_text_shows_every_layer_and_the_sums() -> None:
    cost = complexity(build("mobilenet_v2", "classifier", 1000), (224, 224))
    heading, *rows, sums, norms = str(cost).splitlines()
    assert heading.split() == ["module", "layer", "output", "parameters", "multiply-adds"]
    assert len(rows) == len(cost.layers)
    assert all(row.startswith(f"{layer.module} ") for row, layer in zip(rows, cost.layers, strict=True))
    assert len({len(row) for row in (heading, *rows, sums)}) == 1
    (depthwise,) = [row for row in rows if row.startswith("backbone.layers.layer_2.depthwise.conv ")]
    assert " ".join(depthwise.split()[1:]) == "3 x 3 depthwise conv 32 x 112 x 112 288 3,612,672"
    assert sums.split() == ["sum", "3,504,872", "300,774,272"]
    assert norms == "34,112 of the parameters belong to batch normalizations"
