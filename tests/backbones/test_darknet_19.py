from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mbv2kit.backbones.darknet_19 import Darknet19
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from tests.backbones.build import on_meta
from tests.counting import count
from tests.norms import randomize_norms

NAME = "darknet_19"

# Table 6 of YOLO9000, row by row, without its last convolution: a filter count with its kernel size, or a pooling.
TABLE_6 = """
    32/3 M 64/3 M 128/3 64/1 128/3 M 256/3 128/1 256/3 M
    512/3 256/1 512/3 256/1 512/3 M 1024/3 512/1 1024/3 512/1 1024/3
"""


def rows() -> list[tuple[str, int, int, int]]:
    """Name, channels, kernel size (0 for a pooling) and stride of each row."""
    found = []
    convolutions, poolings, channels = 0, 0, 3
    for row in TABLE_6.split():
        kernel_size = 0
        if row == "M":
            poolings += 1
            name = f"pool{poolings}"
        else:
            convolutions += 1
            name = f"conv{convolutions}"
            channels, kernel_size = map(int, row.split("/"))
        found.append((name, channels, kernel_size, 2**poolings))
    return found


def model(task: Any, head: str, classes: int, size: int, **options: Any) -> VisionModel:
    spec = ModelSpec(
        backbone={"name": "darknet_19"},
        heads={task: {"name": head, **options}},
        class_names={task: tuple(map(str, range(classes)))},
        input=Preprocess((size, size)),
    )
    with torch.device("meta"):
        return VisionModel(spec)


@pytest.mark.parametrize(
    ("passthrough", "classes", "parameters", "madds"),
    [
        (64, 20, 50_655_389, 14_680_167_424),
        (64, 80, 50_962_889, 14_732_084_224),
        (None, 80, 67_445_065, 17_500_980_224),
    ],
)
def test_yolo_v2_has_the_published_costs(passthrough: int | None, classes: int, parameters: int, madds: int) -> None:
    """MobileNetV2's Table 6 has 50.7 M parameters, those of the newer form, and 17.5 B of the older."""
    yolo = model("detection", "yolo_v2", classes, 416, passthrough_channels=passthrough)
    assert yolo.heads["detection"].features == ("conv13", "conv18")
    assert count(yolo, 416) == (parameters, madds)


def test_the_classifier_has_the_size_that_the_authors_publish() -> None:
    parameters, madds = count(model("classification", "classifier", 1000, 224), 224)
    # The paper says 5.58 thousand million operations, with a 1 x 1 convolution on 7 x 7 pixels for our linear layer.
    assert 2 * (madds + 48 * 1024 * 1000) / 1e9 == pytest.approx(5.58, abs=0.005)
    assert parameters == 20_842_376


def test_the_maps_are_the_rows_of_table_6() -> None:
    info = on_meta(NAME).feature_info
    assert [(feature.name, feature.channels, feature.stride) for feature in info] == [
        (name, channels, stride) for name, channels, _, stride in rows()
    ]
    assert [feature.name for feature in info if feature.stride == 16][-1] == "conv13"


@pytest.mark.parametrize("size", [(64, 96), (75, 33)])
def test_it_is_the_table_of_the_paper_written_down_once_more(size: tuple[int, int]) -> None:
    backbone = Darknet19().double().eval()
    randomize_norms(backbone)
    state = backbone.state_dict()
    current: Tensor = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        maps = backbone(current)
    for name, _, kernel_size, _ in rows():
        if kernel_size == 0:
            # An odd last row or column stands alone.
            odd = (0, current.shape[3] % 2, 0, current.shape[2] % 2)
            current = F.max_pool2d(F.pad(current, odd, value=float("-inf")), 2)
        else:
            current = F.conv2d(current, state[f"layers.{name}.conv.weight"], padding=kernel_size // 2)
            mean, variance, weight, bias = (
                state[f"layers.{name}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
            )
            current = F.batch_norm(current, mean, variance, weight, bias, eps=1e-5)
            current = torch.where(current > 0, current, 0.1 * current)
        assert current.std() > 0.1
        torch.testing.assert_close(maps[name], current)
