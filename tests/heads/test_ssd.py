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
from mbv2kit.heads.ssd import SSD
from mbv2kit.nn import boxes as bx
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Detections

FEATURES = [FeatureInfo("inner", 8, 8), FeatureInfo("near", 8, 16), FeatureInfo("far", 16, 32)]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_mobilenet(head: str, classes: int, size: int, **options: Any) -> tuple[int, int, int, dict[str, Tensor]]:
    """Returns parameters of backbone and head, multiply-adds of both together, and the raw tensors."""
    with torch.device("meta"):
        backbone = create_backbone("mobilenet_v2").eval()
        ssd = create_head(head, backbone.feature_info, classes, **options).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            raw = ssd(backbone(torch.empty(1, 3, size, size)))
    return parameters(backbone), parameters(ssd), counter.get_total_flops() // 2, raw


def test_ssd_and_ssdlite_have_the_papers_sizes() -> None:
    """For the 80 classes of COCO at 320: 4.3 M parameters and 0.8 B multiply-adds in all (Table 6).

    Extra maps and predictions alone have 2.1 M parameters, 14.8 M without separable convolutions (Table 5).
    """
    backbone, separable, madds, _ = on_mobilenet("ssdlite", 80, 320)
    assert (backbone + separable, madds) == (4_337_013, 788_830_144)
    _, plain, madds_with_plain, _ = on_mobilenet("ssd", 80, 320)
    assert (separable, plain) == (2_113_141, 14_776_629)
    assert madds_with_plain - madds == pytest.approx(1.259e9 - 0.1776e9, rel=1e-3)


def test_ssd_is_ssdlite_without_separable_convolutions() -> None:
    assert type(create_head("ssd", FEATURES, 2)) is type(create_head("ssdlite", FEATURES, 2)) is SSD
    plain = create_head("ssd", FEATURES, 2)
    same = create_head("ssdlite", FEATURES, 2, separable=False)
    assert [(name, value.shape) for name, value in plain.state_dict().items()] == [
        (name, value.shape) for name, value in same.state_dict().items()
    ]
    assert not [conv for conv in plain.modules() if isinstance(conv, nn.Conv2d) and conv.groups > 1]


def test_square_anchors_have_the_aspect_ratio_of_the_finest_grid() -> None:
    ssd = create_head("ssd", FEATURES[1:], 2).eval()
    raw = ssd({"near": torch.zeros(1, 8, 3, 5), "far": torch.zeros(1, 16, 2, 3)})
    first = raw["anchors"][0]
    assert ((first[2] - first[0]) / (first[3] - first[1])).item() == pytest.approx(3 / 5)


def test_anchors_at_another_scale_shrink_around_their_centers() -> None:
    raw = {"anchors": torch.tensor([[0.1, 0.2, 0.5, 0.4], [-0.2, 0.0, 0.2, 1.0]]), "box_codes": torch.zeros(1, 2, 4)}
    # Twice as high and four times as wide an input.
    scaled = create_head("ssd", FEATURES[1:], 2).at_scale(raw, (2.0, 4.0))
    torch.testing.assert_close(scaled["anchors"], torch.tensor([[0.25, 0.25, 0.35, 0.35], [-0.05, 0.25, 0.05, 0.75]]))
    assert scaled["box_codes"] is raw["box_codes"]


def stepping(size: tuple[int, int]) -> tuple[SSD, dict[str, Tensor]]:
    """Returns a head on two maps of 32 and 64 pixels a step, and its raw tensors for an input of that size."""
    head = SSD(FEATURES[1:], 1, extra_channels=[], anchors=[[(0.2, 0.2)], [(0.4, 0.4)]], anchor_steps=[32, 64]).eval()
    near, far = ([-(-side // step) for side in size] for step in (32, 64))
    with torch.no_grad():
        raw = head({"near": torch.zeros(1, 8, *near), "far": torch.zeros(1, 16, *far)})
    raw["box_codes"] = torch.zeros_like(raw["box_codes"])
    return head, raw


def test_anchors_with_steps_keep_their_pixels_at_any_scale() -> None:
    for size in ((300, 300), (600, 600), (150, 150)):
        head, raw = stepping(size)
        boxes = head.outputs(head.at_scale(raw, (size[0] / 300, size[1] / 300)), size)["boxes"][0] * size[0]
        centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        expected = []
        for step in (32, 64):
            places = [min(size[0], (cell + 0.5) * step) for cell in range(-(-size[0] // step))]
            expected += [[x, y] for y in places for x in places]
        torch.testing.assert_close(centers, torch.tensor(expected), atol=1e-3, rtol=0)
        assert {round(side) for side in sides.flatten().tolist()} == {60, 120}


def test_the_loss_reads_the_anchors_that_predictions_read() -> None:
    head, raw = stepping((300, 300))
    last = head.outputs(raw, (300, 300))["boxes"][0, 99] * 300
    assert last.tolist() == pytest.approx([270, 270, 330, 330], abs=1e-3)
    targets = {
        "size": (300, 300),
        "boxes": [last[None]],
        "labels": [torch.tensor([0])],
        "crowd": [torch.tensor([False])],
    }
    assert head.loss(raw, targets)["localization"].item() == pytest.approx(0, abs=1e-4)


def test_bottlenecks_end_linearly_and_the_last_map_is_predicted_by_points() -> None:
    head = create_head("ssdlite", FEATURES, 2, bottlenecks=True, extra_channels=[512, 256, 256, 64])
    assert isinstance(head, SSD)
    inner = [extra[0].conv.out_channels for extra in head.extras]  # type: ignore[index]
    assert inner == [256, 128, 128, 64]
    assert not [name for name, _ in head.named_modules() if name.endswith("1.pointwise.act")]
    assert len([name for name, _ in head.named_modules() if name.endswith("act")]) == 4 * 2 + 5 * 2
    for layers, values in ((head.classifiers, 3), (head.regressors, 4)):
        last = layers[5]
        assert isinstance(last, nn.Conv2d)
        assert last.weight.shape == (6 * values, 64, 1, 1)


@pytest.mark.parametrize(("name", "kind"), [("relu6", nn.ReLU6), ("relu", nn.ReLU)])
def test_the_activation_is_that_of_the_option(name: str, kind: type[nn.Module]) -> None:
    head = create_head("ssdlite", FEATURES, 2, activation=name)
    found = [part for part in head.modules() if isinstance(part, nn.ReLU | nn.ReLU6)]
    assert len(found) == 4 * 3 + 6 * 2
    assert all(isinstance(part, kind) for part in found)


def conv_and_norm(name: str) -> list[str]:
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [f"{name}.conv.weight", *(f"{name}.norm.{part}" for part in parts)]


def test_the_names_of_the_numbers_stay_so_that_saved_models_can_be_read() -> None:
    expected: dict[str, list[str]] = {"ssd": [], "ssdlite": []}
    for k in range(4):
        for names in expected.values():
            names += conv_and_norm(f"extras.{k}.0")
        expected["ssd"] += conv_and_norm(f"extras.{k}.1")
        expected["ssdlite"] += conv_and_norm(f"extras.{k}.1.depthwise") + conv_and_norm(f"extras.{k}.1.pointwise")
    for part in ("classifiers", "regressors"):
        for k in range(6):
            expected["ssd"] += [f"{part}.{k}.weight", f"{part}.{k}.bias"]
            expected["ssdlite"] += [*conv_and_norm(f"{part}.{k}.0"), f"{part}.{k}.1.weight", f"{part}.{k}.1.bias"]
    for head, names in expected.items():
        assert list(create_head(head, FEATURES, 2).state_dict()) == names


@pytest.mark.parametrize(("preset", "size", "count"), [("tf", 300, 1917), ("uniform", 320, 3234), ("tf", 320, 2034)])
def test_every_anchor_has_a_prediction(preset: str, size: int, count: int) -> None:
    _, _, _, raw = on_mobilenet("ssdlite", 5, size, anchors=preset)
    assert raw["class_logits"].shape == (1, count, 6)
    assert raw["box_codes"].shape == (1, count, 4)
    assert raw["anchors"].shape == (count, 4)


def test_the_maps_read_are_the_papers() -> None:
    backbone = create_backbone("mobilenet_v2", width=0.35)
    assert create_head("ssdlite", backbone.feature_info, 2).features == ("layer_15_expansion", "layer_19")
    chosen = create_head("ssdlite", backbone.feature_info, 2, maps=["layer_7", "layer_14", "layer_18"])
    assert chosen.features == ("layer_7", "layer_14", "layer_18")
    maps = backbone.eval()(torch.zeros(1, 3, 64, 96))
    # Three maps of the backbone and four more: 8 x 12, 4 x 6, 2 x 3, 1 x 2, then 1 x 1 three times.
    assert chosen.eval()(maps)["anchors"].shape[0] == 96 * 3 + (24 + 6 + 2 + 1 + 1 + 1) * 6


def test_predictions_lie_in_the_order_of_the_anchors() -> None:
    """A prediction layer that writes down where it is must agree with its anchors."""
    head = SSD(FEATURES, 1, separable=False, anchors="uniform").eval()
    regressor = head.regressors[0]
    assert isinstance(regressor, nn.Conv2d)
    nn.init.zeros_(regressor.weight)
    assert regressor.bias is not None
    with torch.no_grad():
        # Channel 0 of the map is the column, channel 1 the row; codes 0 and 1 repeat them, codes 2 and 3 the shape.
        for shape in range(6):
            regressor.weight[shape * 4, 0, 1, 1] = 1.0
            regressor.weight[shape * 4 + 1, 1, 1, 1] = 1.0
            regressor.bias[shape * 4 + 2] = shape
    near = torch.zeros(1, 8, 4, 6)
    near[0, 0] = torch.arange(6.0).expand(4, 6)
    near[0, 1] = torch.arange(4.0)[:, None].expand(4, 6)
    raw = head({"near": near, "far": torch.zeros(1, 16, 2, 3)})
    codes, anchors = raw["box_codes"][0, : 4 * 6 * 6], raw["anchors"][: 4 * 6 * 6]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(centers[:, 0], (codes[:, 0] + 0.5) / 6)
    torch.testing.assert_close(centers[:, 1], (codes[:, 1] + 0.5) / 4)
    ratios = (anchors[:, 2] - anchors[:, 0]) * 6 / ((anchors[:, 3] - anchors[:, 1]) * 4)
    expected = torch.tensor([1, 2, 1 / 2, 3, 1 / 3, 1])[codes[:, 2].long()]
    torch.testing.assert_close(ratios, expected)


def raw_for(boxes: list[list[float]], logits: list[list[float]]) -> dict[str, Tensor]:
    """Raw tensors of one image whose anchors are the wanted boxes themselves."""
    return {
        "class_logits": torch.tensor([logits]),
        "box_codes": torch.zeros(1, len(boxes), 4),
        "anchors": torch.tensor(boxes),
    }


def decode(raw: dict[str, Tensor], size: tuple[int, int], **options: Any) -> list[Detections]:
    found = create_head("ssdlite", FEATURES, raw["class_logits"].shape[2] - 1, **options).decode(raw, size)
    assert all(isinstance(detections, Detections) for detections in found)
    return found  # type: ignore[return-value]


def test_boxes_come_in_input_pixels_clipped_and_sorted() -> None:
    raw = raw_for(
        [[-0.1, 0.25, 0.5, 0.75], [0.5, 0.5, 1.5, 1.25], [0.0, 0.0, 1.0, 1.0]],
        [[0.0, 2.0, -9.0], [0.0, -9.0, 4.0], [9.0, 0.0, 0.0]],
    )
    (found,) = decode(raw, (100, 200))
    assert found.class_ids.tolist() == [1, 0]
    np.testing.assert_allclose(found.boxes, [[100, 50, 200, 100], [0, 25, 100, 75]], atol=1e-4)
    expected = [np.exp(4) / (np.exp(4) + 1 + np.exp(-9)), np.exp(2) / (np.exp(2) + 1 + np.exp(-9))]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)


def test_codes_move_the_anchors() -> None:
    raw = raw_for([[0.2, 0.2, 0.6, 0.6]], [[0.0, 5.0]])
    box = torch.tensor([[0.1, 0.3, 0.9, 0.5]])
    raw["box_codes"] = bx.encode(box, raw["anchors"])[None]
    (found,) = decode(raw, (100, 100))
    np.testing.assert_allclose(found.boxes, [[10, 30, 90, 50]], atol=1e-3)


def test_one_anchor_may_show_two_classes_and_a_class_only_one_of_two_anchors() -> None:
    raw = raw_for([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.4]], [[0.0, 2.0, 1.9], [0.0, -1.0, 0.5]])
    (found,) = decode(raw, (100, 100))
    # Class 1 is clearer in the other anchor.
    assert found.class_ids.tolist() == [1, 0]
    assert found.boxes.tolist() == [[0, 0, 50, 40], [0, 0, 50, 50]]
    (all_of_them,) = decode(raw, (100, 100), nms_iou=1.0)
    assert sorted(all_of_them.class_ids.tolist()) == [0, 0, 1, 1]


def test_background_and_what_is_below_the_threshold_is_no_object() -> None:
    raw = raw_for([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]], [[8.0, 0.0], [0.0, -0.5]])
    (found,) = decode(raw, (64, 64))
    assert found.boxes.tolist() == [[32, 32, 64, 64]]
    (nothing,) = decode(raw, (64, 64), score_threshold=0.5)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.class_ids.shape == (0,)


@pytest.mark.parametrize("most", [100, 7])
def test_an_untrained_head_gives_no_more_than_its_limit_all_in_the_image(most: int) -> None:
    head = create_head("ssdlite", FEATURES, 4, score_threshold=0.0, max_detections=most).eval()
    with torch.no_grad():
        raw = head({"near": torch.randn(2, 8, 12, 10), "far": torch.randn(2, 16, 6, 5)})
        raw["class_logits"] += 3 * torch.randn(raw["class_logits"].shape)
        raw["box_codes"] += 20 * torch.randn(raw["box_codes"].shape)
        found = head.decode(raw, (192, 160))
    for detections in found:
        assert isinstance(detections, Detections)
        assert len(detections.boxes) == most
        assert detections.boxes.min() >= 0
        assert detections.boxes[:, 2].max() <= 160
        assert detections.boxes[:, 3].max() <= 192
        assert (np.diff(detections.scores) <= 0).all()
        assert detections.boxes.dtype == np.float32
        assert detections.class_ids.dtype == np.int64


def test_boxes_are_in_pixels_of_the_input() -> None:
    raw = raw_for([[0.0, 0.0, 1.0, 1.0]], [[0.0, 5.0]])
    found = [decode(raw, size)[0] for size in ((10, 20), (30, 40))]
    assert [detections.boxes.tolist() for detections in found] == [[[0, 0, 20, 10]], [[0, 0, 40, 30]]]


@pytest.mark.parametrize("separable", [True, False])
def test_a_fresh_head_of_sigmoids_scores_every_class_near_a_hundredth(separable: bool) -> None:
    head = SSD(FEATURES, 5, separable=separable, scores="sigmoid").eval()
    maps = {"near": torch.rand(1, 8, 6, 6), "far": torch.rand(1, 16, 3, 3)}
    scores = head.outputs(head(maps), (96, 96))["scores"]
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01), atol=0.01, rtol=0)
    assert scores.median().item() == pytest.approx(0.01, abs=1e-3)


def test_logits_without_meaning_find_nothing() -> None:
    raw = raw_for([[0.0, 0.0, 1.0, 1.0]], [[float("nan"), 5.0]])
    assert len(decode(raw, (10, 10))[0].boxes) == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: create_head("ssd", FEATURES, 2, anchors="tensorflow"),
            r"anchors must be .*, got 'tens",
        ),
        (lambda: SSD(FEATURES, 2, min_scale=0.99), r"^min_scale and max_scale must be in order"),
        (lambda: create_head("ssd", FEATURES, 2, maps=[]), r"maps must be a list, each text .* got \[\]"),
        (lambda: SSD(FEATURES, 2, anchor_steps=[0.1]), r"^anchor_steps lists 1 maps, but the head predicts on 6\.$"),
        (lambda: create_head("ssd", FEATURES, 2, anchor_steps=[0.0] * 6), r"anchor_steps must be .* above 0"),
        (
            lambda: create_head("ssd", FEATURES, 2, bottlenecks=True),
            r"^bottlenecks=true needs separable .*head=ssdlite",
        ),
        (lambda: SSD(FEATURES[:2], 2), r"no feature map of stride 32, only of \[8, 16\]"),
    ],
)
def test_arguments_out_of_range_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()
