from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mbv2kit.backbones import create_backbone
from mbv2kit.data.augment import create_augment
from mbv2kit.data.datamodule import collate_training
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import create_source
from mbv2kit.data.training_set import TrainingSet
from mbv2kit.errors import UserError
from mbv2kit.evaluation import create_evaluator
from mbv2kit.heads import create_head
from mbv2kit.heads.yolo_v2 import YOLOv2
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.inference.torch_models import as_trained
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Detections

FEATURES = [FeatureInfo("near", 6, 16), FeatureInfo("far", 10, 32)]
ANCHORS = [(0.2, 0.3), (0.5, 0.4)]
small = partial(YOLOv2, FEATURES, 3, anchors=ANCHORS, channels=8)


@pytest.mark.parametrize(
    ("passthrough", "classes", "parameters", "madds"),
    [(64, 20, 50.655e6, None), (64, 80, 50.963e6, 14.732e9), (None, 80, None, 17.501e9), (None, 20, None, 34.90e9 / 2)],
)
def test_with_darknet_19_it_has_the_published_sizes(
    passthrough: int | None, classes: int, parameters: float | None, madds: float | None
) -> None:
    """50.7 M parameters (Table 6 of MobileNetV2) are those of the newer form, 17.5 B multiply-adds of the older."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone = create_backbone("darknet_19").eval()
        head = create_head("yolo_v2", backbone.feature_info, classes, passthrough_channels=passthrough).eval()
        backbone.select(head.features)
        raw = head(backbone(torch.empty(1, 3, 416, 416)))
    assert head.features == ("conv13", "conv18")
    assert raw["class_logits"].shape == (1, 13, 13, 5, classes)
    if parameters is not None:
        counted = sum(p.numel() for part in (backbone, head) for p in part.parameters())
        assert counted == pytest.approx(parameters, abs=0.0005e6)
    if madds is not None:
        assert counter.get_total_flops() / 2 == pytest.approx(madds, abs=0.001e9)


def test_it_fits_any_backbone_with_maps_of_both_strides() -> None:
    backbone = create_backbone("mobilenet_v2", width=0.35).eval()
    head = create_head("yolo_v2", backbone.feature_info, 2, channels=8).eval()
    assert head.features == ("layer_15_expansion", "layer_19")
    with torch.no_grad():
        assert head(backbone(torch.zeros(2, 3, 75, 98)))["box_codes"].shape == (2, 3, 4, 5, 4)
    finer = create_head("yolo_v2", backbone.feature_info, 2, maps=["layer_7", "layer_14"])
    assert finer.features == ("layer_7", "layer_14")


def test_the_names_of_the_numbers_stay_so_that_saved_models_can_be_read() -> None:
    names = {name.rpartition(".")[0] for name in small().state_dict()}
    blocks = ("deep.0", "deep.1", "passthrough", "joined")
    assert names == {f"{block}.{part}" for block in blocks for part in ("conv", "norm")} | {"predictor"}
    assert not [name for name in small(passthrough_channels=None).state_dict() if name.startswith("passthrough")]


def joined_input(head: nn.Module, near: Tensor, far: Tensor) -> Tensor:
    """Returns what goes into the convolution behind the passthrough layer."""
    seen: list[Tensor] = []
    with torch.no_grad():
        handle = head.get_submodule("joined").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        head.eval()({"near": near, "far": far})
        handle.remove()
    return seen[0]


@pytest.mark.parametrize("near_size", [(4, 6), (3, 5), (5, 7)])
def test_each_pixel_of_the_finer_map_comes_to_its_own_cell(near_size: tuple[int, int]) -> None:
    """Of a finer map too small by a row or column the rest is zero; what backbones that round down leave over goes."""
    near, far = torch.randn(2, 6, *near_size), torch.randn(2, 10, 2, 3)
    joined = joined_input(small(passthrough_channels=None), near, far)
    assert joined.shape == (2, 4 * 6 + 8, 2, 3)
    for row in range(4):
        for column in range(6):
            cell = joined[:, :24, row // 2, column // 2].reshape(2, 6, 2, 2)[:, :, row % 2, column % 2]
            inside = row < near_size[0] and column < near_size[1]
            assert torch.equal(cell, near[:, :, row, column] if inside else torch.zeros(2, 6))


class Fixed(nn.Module):
    """Says the same whatever it sees."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> Tensor:
        return self.output


def test_predictions_lie_anchor_by_anchor_in_the_channels() -> None:
    head = small().eval()
    said = torch.randn(2, 2 * (5 + 3), 2, 3)
    head.add_module("predictor", Fixed(said))
    raw = head({"near": torch.zeros(2, 6, 4, 6), "far": torch.zeros(2, 10, 2, 3)})
    for anchor in range(2):
        of_anchor = said[:, anchor * 8 : anchor * 8 + 8].permute(0, 2, 3, 1)
        assert torch.equal(raw["box_codes"][:, :, :, anchor], of_anchor[..., :4])
        assert torch.equal(raw["objectness_logits"][:, :, :, anchor], of_anchor[..., 4])
        assert torch.equal(raw["class_logits"][:, :, :, anchor], of_anchor[..., 5:])
    torch.testing.assert_close(raw["anchors"], torch.tensor(ANCHORS))


def raw_of_nothing(images: int = 1) -> dict[str, Tensor]:
    """Raw tensors of a grid of 2 x 4 cells in which nothing is seen."""
    return {
        "box_codes": torch.zeros(images, 2, 4, 2, 4),
        "objectness_logits": torch.full((images, 2, 4, 2), -20.0),
        "class_logits": torch.zeros(images, 2, 4, 2, 3),
        "anchors": torch.tensor(ANCHORS),
    }


def decode(raw: dict[str, Tensor], size: tuple[int, int], **options: Any) -> list[Detections]:
    found = create_head("yolo_v2", FEATURES, 3, anchors=ANCHORS, channels=8, **options).decode(raw, size)
    assert all(isinstance(detections, Detections) for detections in found)
    return found  # type: ignore[return-value]


def test_boxes_come_in_input_pixels_clipped_with_objectness_times_class() -> None:
    raw = raw_of_nothing()
    raw["objectness_logits"][0, 1, 2, 0] = 1.0
    raw["class_logits"][0, 1, 2, 0] = torch.tensor([9.0, -9.0, -9.0])
    raw["box_codes"][0, 1, 2, 0] = torch.tensor([np.log(3), -np.log(3), np.log(3), np.log(0.5)])
    raw["objectness_logits"][0, 0, 0, 1] = 3.0
    raw["class_logits"][0, 0, 0, 1] = torch.tensor([-9.0, 1.0, 9.0])
    (found,) = decode(raw, (100, 200))
    assert found.class_ids.tolist() == [2, 0]
    # Cells are 50 x 50 pixels, the anchors 100 x 40 and 40 x 30.
    expected: list[list[float]] = [[0, 5, 75, 45], [77.5, 55, 197.5, 70]]
    np.testing.assert_allclose(found.boxes, expected, atol=1e-3)
    share = np.exp(9) / (np.exp(9) + np.exp(1) + np.exp(-9))
    np.testing.assert_allclose(found.scores, [share / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))], rtol=1e-5)


def test_of_two_boxes_of_a_class_in_one_place_the_better_is_shown() -> None:
    raw = raw_of_nothing()
    raw["anchors"] = torch.tensor([[0.4, 0.4], [0.4, 0.4]])
    raw["objectness_logits"][0, 1, 2] = torch.tensor([1.0, 2.0])
    raw["class_logits"][0, 1, 2] = torch.tensor([0.0, 0.0, 20.0])
    (found,) = decode(raw, (64, 64))
    assert found.scores.tolist() == pytest.approx([1 / (1 + np.exp(-2))])
    (both,) = decode(raw, (64, 64), nms_iou=1.0)
    assert len(both.boxes) == 2
    (none,) = decode(raw, (64, 64), score_threshold=0.9)
    assert none.boxes.shape == (0, 4)


def test_boxes_are_in_pixels_of_the_input_and_logits_without_meaning_find_nothing() -> None:
    raw = raw_of_nothing(3)
    raw["objectness_logits"][:, 0, 0, 0] = 20.0
    raw["class_logits"][:, 0, 0, 0, 1] = 20.0
    raw["class_logits"][2] = float("nan")
    found = [decode(raw, size)[i] for i, size in enumerate(((100, 100), (200, 300), (10, 10)))]
    np.testing.assert_allclose(found[1].boxes, found[0].boxes * np.array([3, 2, 3, 2], np.float32), rtol=1e-5)
    assert [len(detections.boxes) for detections in found] == [1, 1, 0]


@pytest.mark.parametrize("most", [100, 7])
def test_an_untrained_head_gives_no_more_than_its_limit_all_in_the_image(most: int) -> None:
    raw = {key: 9 * torch.randn(value.shape) for key, value in raw_of_nothing(2).items() if key != "anchors"}
    options = {"score_threshold": 0.0, "nms_iou": 1.0, "max_detections": most}
    for detections in decode({**raw, "anchors": torch.tensor(ANCHORS)}, (192, 160), **options):
        assert len(detections.boxes) == min(most, 2 * 4 * 2 * 3)
        assert detections.boxes.min() >= 0
        assert detections.boxes[:, 2].max() <= 160
        assert detections.boxes[:, 3].max() <= 192
        assert (np.diff(detections.scores) <= 0).all()
        assert detections.boxes.dtype == np.float32
        assert detections.class_ids.dtype == np.int64


def test_fresh_boxes_are_about_the_anchors_in_the_middle_of_their_cells() -> None:
    raw = YOLOv2(FEATURES, 3)({"near": torch.randn(1, 6, 26, 26), "far": torch.randn(1, 10, 13, 13)})
    assert raw["box_codes"].std() < 0.3
    # The authors' five, in cells of a grid of 13 x 13.
    torch.testing.assert_close(raw["anchors"][4] * 13, torch.tensor([9.77052, 9.16828]))


# Anchors in cells of a grid are the usual mistake; the message says which numbers they must be.
BAD_ANCHORS = r"anchors must be a list, each a list of 2, each a number above 0 and at most 1, .*"


def named(**options: Any) -> object:
    return create_head("yolo_v2", FEATURES, 2, **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: named(channels=0), r"channels must be a whole number from 1 to 65,536, got 0\."),
        (lambda: named(passthrough_channels=0), r"passthrough_channels must be .* from 1 .*, or null, got 0\."),
        (lambda: named(anchors=[]), rf"{BAD_ANCHORS}, got \[\]\."),
        (lambda: named(anchors=[[0.1, 0.2], [0.3]]), rf"{BAD_ANCHORS}, got \[\[0\.1, 0\.2\], \[0\.3\]\]"),
        (lambda: named(anchors=[0.1, 0.2]), rf"{BAD_ANCHORS}, got \[0\.1, 0\.2\]"),
        (lambda: named(anchors=0.1), rf"{BAD_ANCHORS}, got 0\.1"),
        (lambda: named(anchors=[[1.87, 2.06]]), rf"{BAD_ANCHORS}, got \[\[1\.87, 2\.06\]\]\."),
        (lambda: small(anchors=None, num_anchors=9), r"^num_anchors is 9, but without training data there are 5"),
        (lambda: named(maps=["near"]), r"maps must be a list of 2, each text .*got \['near'\]"),
        (lambda: small(maps=("far", "near")), r"'far' of stride 32 and 'near' of stride 16"),
        (lambda: YOLOv2(FEATURES[:1], 2), r"no feature map of stride 32, only of \[16\]"),
    ],
)
def test_arguments_out_of_range_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.slow
def test_it_learns_four_images_by_heart() -> None:
    source = create_source("shapes", task="detection", split="train", size=96)
    preprocess = Preprocess((96, 96))
    model = VisionModel(
        ModelSpec(
            backbone={"name": "mobilenet_v2", "width": 0.35, "norm_momentum": 0.1},
            heads={"detection": {"name": "yolo_v2", "channels": 64, "norm_momentum": 0.1}},
            class_names={"detection": source.class_names},
            input=preprocess,
        )
    )
    head = model.heads["detection"]
    assert isinstance(head, YOLOv2)
    images = TrainingSet(Joined({"detection": source}), create_augment({"preset": "none"}, preprocess), seed=0)
    batch = collate_training([images[0, index] for index in range(4)])
    steps, rate = 80, 1e-2
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        # The last steps are small, so that the batch norm statistics catch up with the weights.
        optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        loss = torch.stack(list(head.loss(model(batch.images)["detection"], batch.targets["detection"]).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    evaluator = create_evaluator("detection", source.class_names)
    for index in range(4):
        evaluator.update(as_trained(model).predict([source[index].image])[0].predictions["detection"], source[index])
    assert evaluator.compute().metrics["AP75"] >= 0.95
