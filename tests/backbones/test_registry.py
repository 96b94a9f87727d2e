import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mbv2kit.backbones import BACKBONES, Backbone, create_backbone, list_backbones, without_fixed_options
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.features import FeatureInfo, deepest_feature, find_feature
from tests.parts import one_more_file

NEW_FILE = """
from torch import nn

from mbv2kit.backbones.registry import BACKBONES, Backbone
from mbv2kit.nn.features import FeatureInfo


@BACKBONES.register("two_convolutions")
class TwoConvolutions(Backbone):
    def __init__(self, width=1.0, output_stride=32, kernel=3):
        super().__init__()
        near = nn.Conv2d(3, int(8 * width), kernel, stride=16, padding=kernel // 2)
        far = nn.Conv2d(int(8 * width), int(16 * width), kernel, stride=output_stride // 16, padding=kernel // 2)
        self.layers = nn.ModuleDict({"near": near, "far": far})
        self.feature_info = (
            FeatureInfo("near", int(8 * width), 16),
            FeatureInfo("far", int(16 * width), output_stride),
        )
        self.selected = ("near", "far")
"""


@pytest.fixture
def new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more file in the folder of backbones."""
    with one_more_file(monkeypatch, BACKBONES, tmp_path, "two_convolutions", NEW_FILE):
        yield


@pytest.mark.usefixtures("new_file")
def test_one_new_file_is_all_that_a_new_backbone_takes() -> None:
    assert "two_convolutions" in list_backbones()
    assert "mobilenet_v2" in list_backbones()
    assert BACKBONES.options("two_convolutions") == {"width": 1.0, "output_stride": 32, "kernel": 3}
    backbone = create_backbone("two_convolutions", width=2.0, kernel=5)
    assert [info.channels for info in backbone.feature_info] == [16, 32]
    assert backbone(torch.zeros(1, 3, 64, 96))["far"].shape == (1, 32, 2, 3)


@pytest.mark.usefixtures("new_file")
@pytest.mark.parametrize(
    ("task", "head"),
    [("classification", "classifier"), ("detection", "ssdlite"), ("segmentation", "deeplab_v3")],
)
def test_every_head_sits_on_the_new_backbone(task: Any, head: str, tmp_path: Path) -> None:
    spec = ModelSpec(
        backbone={"name": "two_convolutions", "kernel": 1},
        heads={task: {"name": head}},
        class_names={task: ("a", "b")},
        input=Preprocess((64, 64)),
    )
    model = VisionModel(spec).eval()
    model.save(tmp_path / "model")
    again = VisionModel.load(tmp_path / "model")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    raw, raw_again = model(images)[task], again(images)[task]
    for name, values in raw.items():
        assert torch.equal(values, raw_again[name])
    assert len(model.heads[task].decode(raw, (64, 64))) == 2


def test_the_new_backbone_is_gone_again() -> None:
    with pytest.raises(UserError, match="There is no backbone 'two_convolutions'"):
        create_backbone("two_convolutions")


def test_a_network_has_only_the_options_that_change_it() -> None:
    with pytest.raises(UserError, match=r"backbone 'vgg16' has no option 'width'\. Known: ceil_pooling\."):
        create_backbone("vgg16", width=1.0)
    assert BACKBONES.options("vgg16") == {"ceil_pooling": True}
    assert "output_stride" in BACKBONES.options("resnet_101")
    assert "width" not in BACKBONES.options("resnet_101")


@pytest.mark.parametrize("name", ["darknet_19", "nasnet_a", "vgg16"])
def test_the_width_and_stride_that_a_network_cannot_change_are_left_out(name: str) -> None:
    old = {"name": name, "width": 1.0, "output_stride": 32}
    assert without_fixed_options(old) == {"name": name}
    with pytest.raises(
        UserError, match=rf"^backbone '{name}' has a fixed output_stride of 32, got 16; set it to 32, or"
    ):
        without_fixed_options({**old, "output_stride": 16})
    with pytest.raises(UserError, match=rf"^backbone '{name}' has a fixed width of 1\.0, got 0\.5; set it"):
        without_fixed_options({**old, "width": 0.5})


def test_options_that_a_network_has_and_slips_stay() -> None:
    assert without_fixed_options({"name": "resnet_101", "width": 1, "output_stride": 8}) == {
        "name": "resnet_101", "output_stride": 8
    }  # fmt: skip
    options = {"name": "mobilenet_v2", "width": 0.5, "output_stride": 16, "widht": 1.0}
    assert without_fixed_options(options) == options


def test_a_model_folder_with_options_that_its_network_has_lost_still_opens(tmp_path: Path) -> None:
    spec = ModelSpec(
        backbone={"name": "vgg16", "width": 1.0, "output_stride": 32, "ceil_pooling": False},
        heads={"segmentation": {"name": "deeplab_v3", "channels": 8}},
        class_names={"segmentation": ("a", "b")},
        input=Preprocess((32, 32)),
    )
    model = VisionModel(spec)
    model.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["backbone"] == {"name": "vgg16", "ceil_pooling": False}
    description["backbone"] |= {"width": 1.0, "output_stride": 32}
    (tmp_path / "model.json").write_text(json.dumps(description))
    again = VisionModel.load(tmp_path)
    assert again.spec.backbone == {"name": "vgg16", "ceil_pooling": False}
    for name, values in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], values)
    description["backbone"]["output_stride"] = 16
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"model\.json.*backbone 'vgg16' has a fixed output_stride of 32, got 16"):
        VisionModel.load(tmp_path)


def test_an_unknown_backbone_or_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"There is no backbone 'mobilenetv2'\. Did you mean 'mobilenet_v2'\?"):
        create_backbone("mobilenetv2")
    with pytest.raises(
        UserError, match=r"backbone 'mobilenet_v2' has no option 'shrink'\. Did you mean 'shrink_last'\?"
    ):
        create_backbone("mobilenet_v2", shrink=True)


class Levels(Backbone):
    """A backbone of numbers: each level halves the image once more."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({f"level_{k}": nn.AvgPool2d(2) for k in (1, 2, 3, 10)})
        self.feature_info = tuple(FeatureInfo(f"{name}", 3, 2**k) for k, name in enumerate(self.layers, start=1))
        self.selected = tuple(info.name for info in self.feature_info)


def test_selection_keeps_the_order_of_the_network_and_drops_behind_the_deepest() -> None:
    backbone = Levels()
    backbone.select(["level_3", "level_1", "level_3"])
    assert backbone.selected == ("level_1", "level_3")
    assert list(backbone.layers) == ["level_1", "level_2", "level_3"]


def test_the_layers_up_to_a_map_are_those_that_it_needs() -> None:
    backbone = Levels()
    layers = list(backbone.layers.values())
    assert backbone.layers_until("level_2") == layers[:2]
    assert backbone.layers_until("level_10_inner") == layers
    with pytest.raises(UserError, match=r"no layer 'level_4'\. Did you mean"):
        backbone.layers_until("level_4")


def test_features_are_found_by_name_or_by_stride() -> None:
    features = [FeatureInfo("a", 8, 8), FeatureInfo("b", 8, 16), FeatureInfo("c", 16, 16), FeatureInfo("d", 16, 32)]
    assert find_feature(features, "b").name == "b"
    assert deepest_feature(features, 16).name == "c"
    with pytest.raises(UserError, match=r"no feature map of stride 4, only of \[8, 16, 32\]"):
        deepest_feature(features, 4)
    with pytest.raises(UserError, match=r"no feature map 'e'\. Known: a, b, c, d\."):
        find_feature(features, "e")
