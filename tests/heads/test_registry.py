from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mbv2kit.errors import UserError
from mbv2kit.heads import HEADS, create_head, list_heads
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Classification
from tests.parts import one_more_file

FEATURES = [FeatureInfo("near", 4, 16), FeatureInfo("far", 6, 32)]

NEW_FILE = """
import torch
from torch import nn

from mbv2kit.heads.registry import HEADS, Head
from mbv2kit.structures import Classification


@HEADS.register("brightest_channel")
class BrightestChannel(Head):
    task = "classification"

    def __init__(self, feature_info, num_classes, margin=0.5):
        super().__init__()
        self.features = (feature_info[0].name,)
        self.score = nn.Conv2d(feature_info[0].channels, num_classes, 1)
        self.margin = margin

    def forward(self, features):
        return {"peaks": self.score(features[self.features[0]]).amax(dim=(2, 3))}

    def loss(self, raw, targets):
        return {"margin": nn.functional.multi_margin_loss(raw["peaks"], targets["label"], margin=self.margin)}

    def outputs(self, raw, size):
        return {"probabilities": raw["peaks"].softmax(dim=1)}
"""


@pytest.fixture
def new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more file in the folder of heads."""
    with one_more_file(monkeypatch, HEADS, tmp_path, "brightest_channel", NEW_FILE):
        yield


@pytest.mark.usefixtures("new_file")
def test_one_new_file_is_all_that_a_new_head_takes(tmp_path: Path) -> None:
    assert "brightest_channel" in list_heads()
    assert HEADS.options("brightest_channel") == {"margin": 0.5}
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2", "width": 0.35},
        heads={"classification": {"name": "brightest_channel", "margin": 0.25}},
        class_names={"classification": ("a", "b", "c")},
        input=Preprocess((32, 32)),
    )
    model = VisionModel(spec).eval()
    # The head reads the first map alone, so that nothing else is left of the network.
    assert list(model.backbone.get_submodule("layers")._modules) == ["layer_1"]
    model.save(tmp_path / "model")
    again = VisionModel.load(tmp_path / "model")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    raw = again(images)
    assert torch.equal(model(images)["classification"]["peaks"], raw["classification"]["peaks"])
    for prediction in again.heads["classification"].decode(raw["classification"], (32, 32)):
        assert isinstance(prediction, Classification)
        assert len(prediction.scores) == 3


def test_the_new_head_is_gone_again() -> None:
    with pytest.raises(UserError, match="There is no head 'brightest_channel'"):
        create_head("brightest_channel", FEATURES, 3)


def test_the_heads_of_the_paper_are_there() -> None:
    assert {"classifier", "deeplab_v3", "ssd", "ssdlite"} <= set(list_heads())
    assert create_head("classifier", FEATURES, 3).task == "classification"
    assert create_head("ssdlite", FEATURES, 3).task == "detection"
    assert create_head("deeplab_v3", FEATURES, 3).task == "segmentation"


def test_options_are_those_of_the_constructor() -> None:
    assert HEADS.options("classifier") == {"dropout": 0.2, "label_smoothing": 0.0, "background": False}
    assert HEADS.options("ssdlite")["separable"] is True
    assert HEADS.options("ssd")["separable"] is False
    assert HEADS.options("ssd").keys() == HEADS.options("ssdlite").keys()


def test_an_unknown_head_or_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"There is no head 'ssd_lite'\. Did you mean 'ssdlite'\?"):
        create_head("ssd_lite", FEATURES, 3)
    with pytest.raises(UserError, match=r"head 'ssd' has no option 'nms'\. Did you mean 'nms_iou'\?"):
        create_head("ssd", FEATURES, 3, nms=0.5)
