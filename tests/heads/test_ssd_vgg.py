from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones import Backbone, create_backbone
from mbv2kit.data.sources import create_source
from mbv2kit.errors import UserError
from mbv2kit.evaluation import create_evaluator
from mbv2kit.heads import HEADS, create_head
from mbv2kit.heads.multibox import MultiBox
from mbv2kit.heads.ssd import SSD
from mbv2kit.heads.ssd_vgg import SSD300, SSD512, L2Norm
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Detections

FEATURES = [
    FeatureInfo("finest", 4, 4),
    FeatureInfo("near", 6, 8),
    FeatureInfo("far", 8, 16),
    FeatureInfo("last", 4, 32),
]
SIDES = {"ssd300": (300, [38, 19, 10, 5, 3, 1]), "ssd512": (512, [64, 32, 16, 8, 4, 2, 1])}
# Channels, kernel, stride and padding of the second convolution of each further map (Figure 2 and section 3.1).
EXTRAS = {
    "ssd300": [(512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 1, 0), (256, 3, 1, 0)],
    "ssd512": [(512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 4, 1, 1)],
}


def build(name: str, classes: int = 2, **options: Any) -> SSD300:
    head = create_head(name, FEATURES, classes, **options).eval()
    assert isinstance(head, SSD300)
    return head


def on_vgg16(
    name: str, size: tuple[int, int], classes: int = 80, **options: Any
) -> tuple[Backbone, MultiBox, int, Any]:
    """Returns backbone, head, multiply-adds of both together, and the raw tensors; none of them holds numbers."""
    with torch.device("meta"):
        backbone = create_backbone("vgg16", **options)
        head = create_head(name, backbone.feature_info, classes)
        backbone.select(head.features)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            raw = head(backbone(torch.empty(2, 3, *size)))
    assert isinstance(head, MultiBox)
    return backbone, head, counter.get_total_flops() // 4, raw


@pytest.mark.parametrize(
    ("name", "parameters", "madds"), [("ssd300", 34_305_206, 34_360_351_232), ("ssd512", 36_038_196, 98_628_936_704)]
)
def test_costs_with_vgg16_for_the_80_classes_of_coco(name: str, parameters: int, madds: int) -> None:
    """MobileNetV2's Table 6 has 36.1 M and 35.2 B for SSD300, 36.1 M and 99.5 B for SSD512."""
    backbone, head, counted, _ = on_vgg16(name, (SIDES[name][0],) * 2)
    assert sum(tensor.numel() for part in (backbone, head) for tensor in part.parameters()) == parameters
    assert counted == madds
    assert list(backbone.layers)[-1] == "conv5_3"


@pytest.mark.parametrize(("name", "count"), [("ssd300", 8732), ("ssd512", 24564)])
def test_maps_and_anchors_are_as_many_as_in_the_paper(name: str, count: int) -> None:
    size, sides = SIDES[name]
    _, head, _, raw = on_vgg16(name, (size, size), classes=20)
    assert head.features == ("conv4_3", "conv5_3")
    assert raw["class_logits"].shape == (2, count, 21)
    assert raw["box_codes"].shape == (2, count, 4)
    assert raw["anchors"].shape == (count, 4)
    assert sum(side**2 * len(cell) for side, cell in zip(sides, head.shapes, strict=True)) == count


def test_without_ceil_pooling_the_first_map_has_a_row_less() -> None:
    raw = on_vgg16("ssd300", (300, 300), ceil_pooling=False)[3]
    sides = [37, 18, 9, 5, 3, 1]
    assert len(raw["anchors"]) == sum(n * s**2 for n, s in zip((4, 6, 6, 6, 4, 4), sides, strict=True))


def test_anchors_lie_in_the_middle_of_their_cells() -> None:
    raw = build("ssd300")({"near": torch.randn(1, 6, 38, 38), "far": torch.randn(1, 8, 19, 19)})
    anchors = raw["anchors"]
    found = torch.cat([anchors[:, :2] + anchors[:, 2:], anchors[:, 2:] - anchors[:, :2]], dim=1)
    found[:, :2] /= 2
    second = 38 * 38 * 4
    thin = 0.2 * sqrt(3)
    expected = {
        0: (0.5 / 38, 0.5 / 38, 0.1, 0.1),
        3: (0.5 / 38, 0.5 / 38, sqrt(0.02), sqrt(0.02)),
        4 * 2 + 1: (2.5 / 38, 0.5 / 38, 0.1 * sqrt(2), 0.1 / sqrt(2)),
        4 * 38 * 3 + 2: (0.5 / 38, 3.5 / 38, 0.1 / sqrt(2), 0.1 * sqrt(2)),
        second + 6 * (19 + 1) + 3: (1.5 / 19, 1.5 / 19, thin, thin / 3),
        8728: (0.5, 0.5, 0.9, 0.9),
        8731: (0.5, 0.5, sqrt(0.9 * 1.075), sqrt(0.9 * 1.075)),
    }
    torch.testing.assert_close(found[list(expected)], torch.tensor(list(expected.values())), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("size", [(38, 38), (35, 47)])
def test_it_is_the_network_of_the_paper_written_down_once_more(name: str, size: tuple[int, int]) -> None:
    head = build(name, classes=3).double()
    with torch.no_grad():
        for part in head.modules():
            if isinstance(part, nn.Conv2d):
                assert part.bias is not None
                part.bias.normal_(std=0.1)
        head.norm.weight.uniform_(5, 20)
    state = head.state_dict()

    def convolve(x: Tensor, layer: str, **options: int) -> Tensor:
        return F.conv2d(x, state[f"{layer}.weight"], state[f"{layer}.bias"], **options)

    near = torch.randn(2, 6, *size, dtype=torch.float64)
    far = torch.randn(2, 8, *((side + 1) // 2 for side in size), dtype=torch.float64)
    lengths = near.square().sum(dim=1, keepdim=True).sqrt()
    maps = [near / lengths * state["norm.weight"].reshape(1, 6, 1, 1)]
    pooled = F.max_pool2d(far, 3, stride=1, padding=1)
    assert pooled.shape == far.shape
    maps.append(convolve(convolve(pooled, "fc6", padding=6, dilation=6).clamp(min=0), "fc7").clamp(min=0))
    for k, (channels, kernel, stride, padding) in enumerate(EXTRAS[name]):
        half = convolve(maps[-1], f"extras.{k}.0").clamp(min=0)
        assert half.shape[1] == channels // 2
        assert state[f"extras.{k}.2.weight"].shape == (channels, channels // 2, kernel, kernel)
        maps.append(convolve(half, f"extras.{k}.2", stride=stride, padding=padding).clamp(min=0))
    logits = [convolve(x, f"classifiers.{k}", padding=1) for k, x in enumerate(maps)]
    codes = [convolve(x, f"regressors.{k}", padding=1) for k, x in enumerate(maps)]
    with torch.no_grad():
        raw = head({"near": near, "far": far})
    for found, values, expected in ((raw["class_logits"], 4, logits), (raw["box_codes"], 4, codes)):
        rows = [x.permute(0, 2, 3, 1).reshape(2, -1, values) for x in expected]
        torch.testing.assert_close(found, torch.cat(rows, dim=1))
        assert found.shape[1] == len(raw["anchors"])


def test_new_layers_start_by_glorot_and_the_norm_from_20() -> None:
    head = build("ssd300")
    assert (head.norm.weight == 20).all()
    for part in head.modules():
        if isinstance(part, nn.Conv2d):
            assert part.bias is not None
            assert not part.bias.any()
            fans = (part.in_channels + part.out_channels) * part.kernel_size[0] ** 2
            # Evenly spread between minus and plus this: the variance is a third of its square.
            limit = sqrt(6 / fans)
            assert part.weight.abs().max() <= limit
            assert part.weight.std().item() == pytest.approx(limit / sqrt(3), rel=0.05)


def test_the_norm_scales_each_steps_vector_to_its_weights() -> None:
    norm = L2Norm(5)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6.0))
    features = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32) * 100
    expected = np.empty_like(features)
    for b, y, x in np.ndindex(2, 3, 4):
        vector = features[b, :, y, x]
        expected[b, :, y, x] = vector / np.sqrt((vector**2).sum()) * np.arange(1, 6)
    found = norm(torch.from_numpy(features)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_norm_has_the_gradient_of_differences() -> None:
    norm = L2Norm(3, scale=2.0).double()
    features = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def call(features: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(norm, {"weight": weight}, (features,))
        return found

    assert torch.autograd.gradcheck(call, (features, norm.weight))


def test_a_step_where_nothing_fires_stays_zero_and_trains_on() -> None:
    norm = L2Norm(4)
    features = torch.zeros(1, 4, 2, 2)
    features[0, :, 0, 0] = torch.tensor([3.0, 0.0, 4.0, 0.0])
    features.requires_grad_()
    output = norm(features)
    assert output[0, :, 0, 0].tolist() == pytest.approx([12.0, 0.0, 16.0, 0.0])
    assert not output[0, :, 1].any()
    output.square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert norm.weight.grad is not None
    # The derivative of the sum of (w v / |v|) squared by w.
    assert norm.weight.grad.tolist() == pytest.approx([40 * 0.36, 0.0, 40 * 0.64, 0.0])


def test_loss_and_decoding_are_those_of_ssd() -> None:
    for kind in (SSD, SSD300, SSD512):
        assert (kind.loss, kind.decode) == (MultiBox.loss, MultiBox.decode)
    head = build("ssd300", classes=3, nms_iou=0.6, max_detections=100)
    with torch.no_grad():
        raw = head({"near": torch.randn(1, 6, 34, 34), "far": torch.randn(1, 8, 17, 17)})
        raw["class_logits"] += 2 * torch.randn(raw["class_logits"].shape)
    targets = {
        "size": (272, 272),
        "boxes": [torch.tensor([[20.0, 30.0, 90.0, 110.0], [150.0, 100.0, 260.0, 250.0]])],
        "labels": [torch.tensor([2, 0])],
        "crowd": [torch.tensor([False, True])],
    }
    other = SSD([FeatureInfo("near", 8, 16), FeatureInfo("far", 8, 32)], 3)
    found, expected = head.loss(raw, targets), other.loss(raw, targets)
    assert found == expected
    assert found["classification"] > 0
    (ours,), (theirs,) = head.decode(raw, (272, 272)), other.decode(raw, (272, 272))
    assert isinstance(ours, Detections)
    assert isinstance(theirs, Detections)
    assert len(ours.boxes) == 100
    for key in ("boxes", "class_ids", "scores"):
        np.testing.assert_array_equal(getattr(ours, key), getattr(theirs, key))


def test_defaults_are_those_of_the_authors() -> None:
    usual = {"max_scale": 0.9, "maps": None, "match_iou": 0.5, "score_threshold": 0.01, "nms_iou": 0.45}
    usual |= {"max_detections": 200}
    assert HEADS.options("ssd300") == usual | {"first_scale": 0.1, "min_scale": 0.2}
    assert HEADS.options("ssd512") == usual | {"first_scale": 0.07, "min_scale": 0.15}


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2", "resnet_101"])
def test_any_backbone_with_maps_of_strides_8_and_16_will_do(backbone: str) -> None:
    with torch.device("meta"):
        net = create_backbone(backbone)
        head = create_head("ssd300", net.feature_info, 5)
        net.select(head.features)
        raw = head(net(torch.empty(1, 3, 300, 300)))
    assert raw["class_logits"].shape == (1, 8732, 6)


def test_other_maps_can_be_named() -> None:
    assert build("ssd512", maps=["finest", "far"]).features == ("finest", "far")


@pytest.mark.parametrize("size", [(257, 257), (300, 420), (512, 257)])
def test_inputs_from_257_pixels_on_are_large_enough(size: tuple[int, int]) -> None:
    for name in SIDES:
        raw = on_vgg16(name, size)[3]
        assert raw["class_logits"].shape[1] == len(raw["anchors"])


@pytest.mark.parametrize("size", [(256, 300), (300, 256)])
@pytest.mark.parametrize("name", SIDES)
def test_smaller_inputs_are_refused(name: str, size: tuple[int, int]) -> None:
    steps = r"16 x 19" if size[0] == 256 else r"19 x 16"
    with pytest.raises(
        UserError, match=rf"map conv5_3 of at least 17 x 17 steps, got {steps}; use inputs of at least 272"
    ):
        on_vgg16(name, size)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: SSD300(FEATURES, 2, first_scale=0.3),
            r"^first_scale must be above 0 and at most min_scale",
        ),
        (lambda: SSD300(FEATURES, 2, min_scale=0.95), r"^min_scale and max_scale must be in order"),
        (
            lambda: create_head("ssd300", FEATURES, 2, maps=["near"]),
            r"^head 'ssd300': maps must be a list of 2, each text .*, or null, got \['near'\]\.",
        ),
        (lambda: SSD300(FEATURES[2:], 2), r"no feature map of stride 8, only of \[16, 32\]"),
    ],
)
def test_arguments_out_of_range_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.slow
def test_it_learns_four_images_by_heart_and_lives_on_in_a_model_folder(tmp_path: Path) -> None:
    source = create_source("shapes", task="detection", split="train", size=260, train_count=4)
    model = VisionModel(
        ModelSpec(
            # Its batch norms make up for weights that were not trained before.
            backbone={"name": "mobilenet_v2", "width": 0.35, "norm_momentum": 0.1},
            heads={"detection": {"name": "ssd300"}},
            class_names={"detection": source.class_names},
            input=Preprocess((260, 260)),
        )
    )
    head = model.heads["detection"]
    assert isinstance(head, SSD300)
    samples = [source[index] for index in range(4)]
    images = images_to_tensor([sample.image for sample in samples])
    boxes = [sample.boxes for sample in samples if sample.boxes is not None]
    labels = [sample.labels for sample in samples if sample.labels is not None]
    targets = {
        "size": (260, 260),
        "boxes": [torch.from_numpy(values) for values in boxes],
        "labels": [torch.from_numpy(values) for values in labels],
        "crowd": [torch.zeros(len(values), dtype=torch.bool) for values in labels],
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        loss = torch.stack(list(head.loss(model(images)["detection"], targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.save(tmp_path / "model")
    again = VisionModel.load(tmp_path / "model")
    evaluator = create_evaluator("detection", source.class_names)
    for sample in samples:
        evaluator.update(as_trained(again).predict([sample.image])[0].predictions["detection"], sample)
    assert evaluator.compute().metrics["AP50"] >= 0.95
