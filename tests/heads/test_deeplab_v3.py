from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones import create_backbone
from mbv2kit.errors import UserError
from mbv2kit.heads import create_head
from mbv2kit.heads.deeplab_v3 import DeepLabV3
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Segmentation

FEATURES = [FeatureInfo("early", 4, 8), FeatureInfo("second", 6, 16), FeatureInfo("final", 8, 16)]


@pytest.mark.parametrize(
    ("aspp", "parameters", "madds"), [(False, 2_113_557, 2_740_709_056), (True, 4_523_541, 5_363_508_928)]
)
def test_costs_are_those_of_table_7(aspp: bool, parameters: int, madds: int) -> None:
    """2.11 M and 2.75 B, with atrous branches 4.52 M and 5.8 B.

    The paper's 5.8 counts the padding that TensorFlow ran dilated convolutions with; without it they are 5.36.
    """
    with torch.device("meta"):
        backbone = create_backbone("mobilenet_v2", output_stride=16)
        head = DeepLabV3(backbone.feature_info, 21, aspp=aspp).eval()
        backbone.select(head.features)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = head(backbone.eval()(torch.empty(1, 3, 513, 513)))["logits"]
    assert logits.shape == (1, 21, 33, 33)
    assert sum(p.numel() for part in (backbone, head) for p in part.parameters()) == parameters
    assert counter.get_total_flops() == 2 * madds


@pytest.mark.parametrize(
    ("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36]), (32, [3, 6, 9]), (4, [24, 48, 72])]
)
def test_atrous_rates_follow_the_stride_of_the_map(stride: int, rates: list[int]) -> None:
    head = DeepLabV3([FeatureInfo("map", 4, stride)], 3, feature="last", aspp=True)
    assert atrous_rates(head) == rates


def test_atrous_rates_may_be_given() -> None:
    assert atrous_rates(DeepLabV3(FEATURES, 3, aspp=True, rates=[2, 5])) == [2, 5]


def atrous_rates(head: DeepLabV3) -> list[int]:
    convs = [part for part in head.modules() if isinstance(part, nn.Conv2d)]
    return [conv.dilation[0] for conv in convs if conv.kernel_size[0] == 3]


@pytest.mark.parametrize(
    ("options", "branches"),
    [({}, 2), ({"image_pooling": False}, 1), ({"aspp": True}, 5), ({"aspp": True, "image_pooling": False}, 4)],
)
def test_branches_are_joined(options: dict[str, Any], branches: int) -> None:
    head = DeepLabV3(FEATURES, 3, channels=16, **options).eval()
    assert head.join.conv.in_channels == 16 * branches
    assert head({"second": torch.randn(2, 6, 5, 7)})["logits"].shape == (2, 3, 5, 7)


def test_image_pooling_lets_every_step_see_the_whole_map() -> None:
    x = torch.randn(1, 6, 5, 7)
    moved = x.clone()
    moved[..., 4, 6] += 10.0
    for pooling in (True, False):
        head = DeepLabV3(FEATURES, 3, channels=16, image_pooling=pooling).eval()
        difference = (head({"second": moved})["logits"] - head({"second": x})["logits"]).abs().amax(dim=1)[0]
        assert difference[4, 6] > 0
        assert (difference[0, 0] > 0) == pooling


@pytest.mark.parametrize(("feature", "found"), [("last", "final"), ("second_last", "second"), ("early", "early")])
def test_the_map_is_chosen_by_place_or_by_name(feature: str, found: str) -> None:
    assert DeepLabV3(FEATURES, 3, feature=feature).features == (found,)


def test_the_papers_map_has_320_channels() -> None:
    backbone = create_backbone("mobilenet_v2", output_stride=16)
    head = DeepLabV3(backbone.feature_info, 3)
    assert head.features == ("layer_18",)
    assert head.get_parameter("branches.0.conv.weight").shape == (256, 320, 1, 1)


def enlarged_by_hand(logits: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with the corners of both grids on each other."""
    rows = torch.arange(height).double() * (logits.shape[2] - 1) / max(1, height - 1)
    columns = torch.arange(width).double() * (logits.shape[3] - 1) / max(1, width - 1)

    def weights(places: Tensor, count: int) -> Tensor:
        return (1 - (places[:, None] - torch.arange(count)).abs()).clamp(min=0)

    return torch.einsum("yh,bchw,xw->bcyx", weights(rows, logits.shape[2]), logits, weights(columns, logits.shape[3]))


def loss_by_hand(logits: Tensor, mask: Tensor, class_weights: list[float]) -> float:
    large = enlarged_by_hand(logits.detach().double(), *mask.shape[1:])
    log_shares = large.log_softmax(dim=1)
    total, weight = 0.0, 0.0
    for image, row, column in np.ndindex(*mask.shape):
        label = int(mask[image, row, column])
        if label != 255:
            total -= class_weights[label] * log_shares[image, label, row, column].item()
            weight += class_weights[label]
    return total / weight


@pytest.mark.parametrize("class_weights", [None, [1.0, 5.0, 0.25], [1e-4, 2e-4, 1e-4]])
def test_the_loss_is_the_weighted_mean_over_the_pixels_that_count(class_weights: list[float] | None) -> None:
    head = DeepLabV3(FEATURES, 3, class_weights=class_weights)
    logits = 3 * torch.randn(2, 3, 3, 4)
    mask = torch.randint(0, 3, (2, 9, 13), dtype=torch.uint8)
    mask[0, :4] = 255
    losses = head.loss({"logits": logits}, {"mask": mask})
    assert losses.keys() == {"segmentation"}
    expected = loss_by_hand(logits, mask, class_weights or [1.0] * 3)
    assert losses["segmentation"].item() == pytest.approx(expected, rel=1e-4)


def test_pixels_of_255_teach_nothing() -> None:
    head = DeepLabV3(FEATURES, 3)
    logits = torch.randn(1, 3, 9, 9, requires_grad=True)
    mask = torch.full((1, 9, 9), 255, dtype=torch.uint8)
    mask[0, 3:5, 6] = 1
    (gradient,) = torch.autograd.grad(head.loss({"logits": logits}, {"mask": mask})["segmentation"], logits)
    assert torch.equal(gradient[0].abs().sum(dim=0) > 0, mask[0] != 255)


@pytest.mark.parametrize("class_weights", [None, [1.0, 5.0, 0.25]])
def test_a_mask_that_is_ignored_altogether_costs_nothing(class_weights: list[float] | None) -> None:
    head = DeepLabV3(FEATURES, 3, class_weights=class_weights)
    logits = torch.randn(2, 3, 3, 4, requires_grad=True)
    loss = head.loss({"logits": logits}, {"mask": torch.full((2, 9, 13), 255, dtype=torch.uint8)})["segmentation"]
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_of_equal_classes_the_first_wins(layout: torch.memory_format) -> None:
    deeplab = DeepLabV3(FEATURES, 5)
    logits = torch.randint(0, 3, (2, 5, 9, 7)).float().to(memory_format=layout)
    mask = deeplab.outputs({"logits": logits}, (9, 7))["mask"].numpy()
    # numpy's arg-max is documented to take the first.
    np.testing.assert_array_equal(mask, logits.numpy().argmax(axis=1))


def test_decoding_takes_the_best_class_at_the_size_of_each_input() -> None:
    head = DeepLabV3(FEATURES, 3)
    logits = torch.randn(2, 3, 3, 4)
    sizes = [(17, 25), (33, 9)]
    for single, size in zip(logits, sizes, strict=True):
        (prediction,) = head.decode({"logits": single[None]}, size)
        assert isinstance(prediction, Segmentation)
        assert prediction.mask.shape == size
        expected = enlarged_by_hand(single[None].double(), *size)[0].argmax(dim=0)
        assert (prediction.mask == expected.numpy()).mean() > 0.995
        corners = single[:, ::2, ::3].argmax(dim=0)
        np.testing.assert_array_equal(prediction.mask[:: size[0] - 1, :: size[1] - 1], corners)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DeepLabV3(FEATURES, 3, class_weights=[1.0]), r"^class_weights must hold a weight for each of the 3"),
        (
            lambda: create_head("deeplab_v3", FEATURES, 3, aspp=True, rates=[]),
            r"^head 'deeplab_v3': rates must be a list, each a whole number from 1 .* null, got \[\]\.",
        ),
        (lambda: DeepLabV3(FEATURES, 256), r"A mask can hold at most 255 classes, got 256\."),
        (lambda: DeepLabV3(FEATURES, 3, feature="secnd"), r"no feature map 'secnd'\. Did you mean 'second'\?"),
    ],
)
def test_arguments_out_of_range_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
