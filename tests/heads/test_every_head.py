"""What every registered head must do; what is special about one is tested in the file of its name."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.heads import HEADS, Head, create_head, list_heads
from mbv2kit.imaging.postprocess import OUTPUT_NAMES
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import TASKS, Classification, Detections, Segmentation

SIZE = (272, 288)
FEATURES = [FeatureInfo("fine", 8, 8), FeatureInfo("near", 6, 16), FeatureInfo("far", 4, 32)]
CLASSES = 3
KINDS = {"classification": Classification, "detection": Detections, "segmentation": Segmentation}
# Options that make a head small.
SMALL: dict[str, dict[str, Any]] = {"deeplab_v3": {"channels": 8}, "yolo_v2": {"channels": 8}}


def heads_with(option: str) -> list[str]:
    return [name for name in list_heads() if option in HEADS.options(name)]


def build(name: str, **options: Any) -> Head:
    return create_head(name, FEATURES, CLASSES, **SMALL.get(name, {}), **options)


def features(head: Head, images: int = 2) -> dict[str, Tensor]:
    """The maps that a head reads, for inputs of ``SIZE``."""
    assert set(head.features) <= {info.name for info in FEATURES}
    return {
        info.name: torch.randn(images, info.channels, -(-SIZE[0] // info.stride), -(-SIZE[1] // info.stride))
        for info in FEATURES
        if info.name in head.features
    }


def targets(*, empty: bool) -> dict[str, Any]:
    """Ground truth of every task for two images; ``empty`` ones hold a crowd, no object, or nothing but void."""
    boxes = torch.tensor([[20.0, 30.0, 200.0, 180.0], [100.0, 90.0, 160.0, 250.0]])
    if empty:
        crowd = {"boxes": [boxes[:1], boxes[:0]], "labels": [torch.tensor([0]), torch.zeros(0, dtype=torch.long)]}
        crowd |= {"crowd": [torch.tensor([True]), torch.zeros(0, dtype=torch.bool)]}
        mask = torch.full((2, *SIZE), 255, dtype=torch.uint8)
    else:
        crowd = {"boxes": [boxes, boxes[:1]], "labels": [torch.tensor([0, 2]), torch.tensor([1])]}
        crowd |= {"crowd": [torch.tensor([False, False]), torch.tensor([False])]}
        mask = torch.randint(0, CLASSES, (2, *SIZE), dtype=torch.uint8)
    return {"size": SIZE, "label": torch.tensor([2, 0]), "mask": mask, **crowd}


@pytest.mark.parametrize("name", list_heads())
def test_predictions_are_those_of_its_task_one_for_each_image(name: str) -> None:
    head = build(name).eval()
    assert head.task in TASKS
    assert (head.nms_options is not None) == (head.task == "detection")
    with torch.no_grad():
        raw = head(features(head, images=3))
        outputs = head.outputs(raw, SIZE)
        predictions = head.decode(raw, SIZE)
    assert tuple(outputs) == OUTPUT_NAMES[head.task]
    # Rows of the batch, but for what is the same for all of them, such as boxes of fixed anchors.
    assert all(tensor.shape[0] in (1, 3) for tensor in outputs.values())
    assert len(predictions) == 3
    for prediction in predictions:
        assert isinstance(prediction, KINDS[head.task])
        if isinstance(prediction, Classification):
            assert sorted(prediction.class_ids.tolist()) == list(range(CLASSES))
            assert prediction.scores.sum() == pytest.approx(1) or HEADS.options(name).get("background")
        elif isinstance(prediction, Detections):
            assert set(prediction.class_ids.tolist()) <= set(range(CLASSES))
            assert (prediction.boxes >= 0).all()
            assert (prediction.boxes <= [SIZE[1], SIZE[0], SIZE[1], SIZE[0]]).all()
            assert (np.diff(prediction.scores) <= 0).all()
        else:
            assert isinstance(prediction, Segmentation)
            assert prediction.mask.shape == SIZE
            assert prediction.mask.max() < CLASSES


@pytest.mark.parametrize("name", list_heads())
def test_every_number_has_a_say_in_the_raw_tensors(name: str) -> None:
    head = build(name).train()
    raw = [tensor for tensor in head(features(head)).values() if tensor.requires_grad]
    parameters = dict(head.named_parameters())
    gradients = torch.autograd.grad(raw, list(parameters.values()), [torch.randn_like(tensor) for tensor in raw])
    for path, gradient in zip(parameters, gradients, strict=True):
        assert torch.isfinite(gradient).all(), path
        assert gradient.abs().max() > 0, path


@pytest.mark.parametrize("name", list_heads())
def test_terms_of_the_loss_are_finite_scalars_whether_or_not_an_image_holds_objects(name: str) -> None:
    head = build(name).train()
    terms = set()
    for empty in (False, True):
        raw = head(features(head))
        losses = head.loss(raw, targets(empty=empty))
        assert all(value.shape == () and value >= 0 for value in losses.values())
        terms.add(tuple(losses))
        learned = [tensor for tensor in raw.values() if tensor.requires_grad]
        gradients = torch.autograd.grad(list(losses.values()), learned, allow_unused=True)
        assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)
        if not empty:
            assert all(value > 0 for value in losses.values())
            assert all(gradient is not None and gradient.any() for gradient in gradients)
    assert len(terms) == 1
    assert terms.pop()


@pytest.mark.parametrize("name", list_heads())
def test_forward_and_outputs_can_be_exported(name: str) -> None:
    class Whole(nn.Module):
        def __init__(self, head: Head) -> None:
            super().__init__()
            self.head = head

        def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
            return self.head.outputs(self.head(maps), SIZE)

    head = build(name).eval()
    maps = features(head)
    exported = torch.export.export(Whole(head), (maps,)).module()(maps)
    with torch.no_grad():
        for key, expected in Whole(head)(maps).items():
            torch.testing.assert_close(exported[key], expected)


@pytest.mark.parametrize("name", heads_with("norm_eps"))
def test_norms_have_the_epsilon_and_momentum_asked_for(name: str) -> None:
    defaults = HEADS.options(name)
    usual = (defaults["norm_eps"], defaults["norm_momentum"])
    for options, expected in (({}, usual), ({"norm_eps": 0.25, "norm_momentum": 0.5}, (0.25, 0.5))):
        norms = [part for part in build(name, **options).modules() if isinstance(part, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


@pytest.mark.parametrize("name", heads_with("nms_iou"))
def test_boxes_are_chosen_as_the_options_say(name: str) -> None:
    defaults = HEADS.options(name)
    options = build(name).nms_options
    assert options is not None
    assert (options.score_threshold, options.nms_iou, options.max_detections) == (
        defaults["score_threshold"], defaults["nms_iou"], defaults["max_detections"]
    )  # fmt: skip
    head = build(name, score_threshold=0.0, nms_iou=1.0, max_detections=7).eval()
    with torch.no_grad():
        for prediction in head.decode(head(features(head)), SIZE):
            assert isinstance(prediction, Detections)
            assert len(prediction.boxes) == 7


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("nms_iou", -1, r"nms_iou must be a number from 0 to 1, got -1\."),
        ("score_threshold", 2, r"score_threshold must be a number from 0 to 1, got 2\."),
        ("max_detections", 0, r"max_detections must be a whole number from 1 to 10,000, got 0\."),
        ("match_iou", 1.5, r"match_iou must be a number from 0 to 1, got 1\.5\."),
        ("dropout", -0.1, r"dropout must be a number from 0 up and below 1, got -0\.1"),
        ("dropout", 1.0, r"dropout must be a number from 0 up and below 1, got 1\.0"),
        ("label_smoothing", -0.1, r"label_smoothing must be a number from 0 up and below 1, got -0\.1"),
        ("label_smoothing", 1.0, r"label_smoothing must be a number from 0 up and below 1, got 1\.0"),
        ("padding", "same", r"padding must be one of symmetric, tf_same, got 'same'\. Did you mean 'tf_same'\?"),
        ("maps", ["nea", "far"], r"The backbone has no feature map 'nea'\. Did you mean 'near'\?"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: object, message: str) -> None:
    names = heads_with(option)
    assert names
    for name in names:
        with pytest.raises(UserError, match=rf"^(head '{name}': )?{message}"):
            build(name, **{option: value})
