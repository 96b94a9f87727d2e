from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mbv2kit.backbones import create_backbone
from mbv2kit.backbones.shufflenet_v1 import AveragePool, ShuffleNetV1, ShuffleUnit
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from tests.backbones.build import maps_of, on_meta, randomized
from tests.counting import count

NAME = "shufflenet_v1"

# Width, groups -> million multiply-adds, million parameters. The first two are published (MobileNetV2's Table 4: 292
# and 524 M, 3.4 and 5.4 M), the others are an independent count of the ShuffleNet paper's Table 1.
COSTS = {
    (1.5, 3): (292.4, 3.442),
    (2.0, 3): (524.0, 5.451),
    (1.5, 1): (308.1, 2.99),
    (1.5, 8): (290.2, 4.27),
    (2.0, 1): (550.3, 4.92),
    (2.0, 2): (539.1, 5.26),
    (2.0, 4): (510.3, 5.59),
    (2.0, 8): (521.9, 6.52),
}
NAMES = ["conv_1", "pool_1"]
NAMES += [f"stage_{stage}_{unit}" for stage, units in ((2, 4), (3, 8), (4, 4)) for unit in range(1, units + 1)]


def model(task: Any, head: str, classes: int, size: int, **options: Any) -> VisionModel:
    spec = ModelSpec(
        backbone={"name": "shufflenet_v1", **options},
        heads={task: {"name": head}},
        class_names={task: tuple(map(str, range(classes)))},
        input=Preprocess((size, size)),
    )
    with torch.device("meta"):
        return VisionModel(spec)


@pytest.mark.parametrize(("width", "groups"), COSTS)
def test_costs_are_those_of_the_paper(width: float, groups: int) -> None:
    million_madds, million_parameters = COSTS[width, groups]
    parameters, madds = count(model("classification", "classifier", 1000, 224, width=width, groups=groups), 224)
    assert madds / 1e6 == pytest.approx(million_madds, abs=0.05)
    assert parameters / 1e6 == pytest.approx(million_parameters, abs=0.005)


@pytest.mark.parametrize(
    ("width", "groups", "published"),
    [
        (1.0, 1, 143),
        (1.0, 2, 140),
        (1.0, 3, 137),
        (1.0, 4, 133),
        (1.0, 8, 137),
        (0.5, 1, 38),
        (0.5, 3, 38),
        (0.25, 1, 13),
        (0.25, 3, 13),
    ],
)
def test_multiply_adds_are_those_of_tables_1_and_2(width: float, groups: int, published: int) -> None:
    _, madds = count(model("classification", "classifier", 1000, 224, width=width, groups=groups), 224)
    assert madds / 1e6 == pytest.approx(published, abs=1.4)


def test_the_two_networks_of_table_4_exactly() -> None:
    assert count(model("classification", "classifier", 1000, 224, width=1.5), 224) == (3_442_168, 292_443_552)
    assert count(model("classification", "classifier", 1000, 224, width=2.0), 224) == (5_450_776, 524_045_184)


@pytest.mark.parametrize(("groups", "channels"), [(1, 144), (2, 200), (3, 240), (4, 272), (8, 384)])
def test_the_maps_are_those_of_table_1(groups: int, channels: int) -> None:
    info = on_meta(NAME, groups=groups).feature_info
    assert [feature.name for feature in info] == NAMES
    assert [feature.stride for feature in info] == [2, 4] + [8] * 4 + [16] * 8 + [32] * 4
    assert [feature.channels for feature in info] == (
        [24] * 2 + [channels] * 4 + [2 * channels] * 8 + [4 * channels] * 4
    )


@pytest.mark.parametrize(("width", "stem"), [(0.25, 12), (0.95, 12), (1.0, 24), (1.5, 24), (2.0, 48), (2.5, 48)])
def test_the_first_convolution_grows_by_steps(width: float, stem: int) -> None:
    info = on_meta(NAME, width=width).feature_info
    assert [feature.channels for feature in info[:3]] == [stem, stem, 240 * width]


def test_the_first_convolution_can_have_any_channels_that_the_groups_share() -> None:
    assert on_meta(NAME, width=0.5, groups=8).feature_info[0].channels == 16
    info = on_meta(NAME, stem_channels=33).feature_info
    assert [feature.channels for feature in info[:3]] == [33, 33, 240]


def shuffled(values: Tensor, groups: int) -> Tensor:
    """Section 3.1: the channels as a table of g rows, read column by column."""
    array = values.numpy()
    each = array.shape[1] // groups
    order = [group * each + position for position in range(each) for group in range(groups)]
    return torch.from_numpy(np.stack([array[:, channel] for channel in order], axis=1))


@pytest.mark.parametrize(("groups", "width"), [(1, 0.25), (3, 0.25), (8, 0.25), (2, 0.2), (4, 1.0)])
def test_it_is_the_paper_written_down_once_more(groups: int, width: float) -> None:
    backbone = randomized(NAME, groups=groups, width=width)
    state = backbone.state_dict()

    def block(x: Tensor, prefix: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{prefix}.conv.weight"], stride=stride, padding=padding, groups=groups)
        mean, variance, weight, bias = (
            state[f"{prefix}.norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-5)

    images = torch.randn(2, 3, 75, 98, dtype=torch.float64)
    maps = maps_of(backbone, images)
    current = block(images, "layers.conv_1", stride=2, padding=1).relu()
    torch.testing.assert_close(maps["conv_1"], current)
    current = F.max_pool2d(current, 3, 2, padding=1)
    torch.testing.assert_close(maps["pool_1"], current)
    for name in NAMES[2:]:
        stride = 2 if name.endswith("_1") else 1
        prefix = f"layers.{name}"
        x = block(current, f"{prefix}.compress", groups=1 if name == "stage_2_1" else groups).relu()
        x = shuffled(x, groups)
        x = block(x, f"{prefix}.depthwise", stride=stride, padding=1, groups=x.shape[1])
        x = block(x, f"{prefix}.expand", groups=groups)
        if stride == 2:
            # What lies outside counts as zero: edges are divided by nine too.
            ninths = torch.full((current.shape[1], 1, 3, 3), 1 / 9, dtype=torch.float64)
            pooled = F.conv2d(current, ninths, stride=2, padding=1, groups=current.shape[1])
            x = torch.cat([pooled, x], dim=1)
        else:
            x = x + current
        current = x.relu()
        assert current.std() > 0.1
        torch.testing.assert_close(maps[name], current)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_channels_are_shuffled_as_numpy_does_it(groups: int) -> None:
    values = torch.randn(2, 48, 3, 5)
    unit = ShuffleNetV1(groups=groups).layers["stage_3_2"]
    assert isinstance(unit, ShuffleUnit)
    assert torch.equal(unit.shuffle(values), shuffled(values, groups))
    channels_last = values.to(memory_format=torch.channels_last)
    assert torch.equal(unit.shuffle(channels_last), shuffled(values, groups))


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [(9, 14), (3, 2)])
def test_the_dilated_average_is_that_of_nine_pixels_zeros_outside(dilation: int, size: tuple[int, int]) -> None:
    values = torch.randn(1, 2, *size, dtype=torch.float64)
    pooled = AveragePool(1, dilation)(values)
    steps = (-dilation, 0, dilation)
    for row, column in np.ndindex(size):
        total = sum(
            values[..., row + down, column + right]
            for down in steps
            for right in steps
            if 0 <= row + down < size[0] and 0 <= column + right < size[1]
        )
        torch.testing.assert_close(pooled[..., row, column], total / 9)


def test_the_network_can_be_exported() -> None:
    backbone = ShuffleNetV1(width=0.25, output_stride=8).eval()
    images = torch.randn(1, 3, 65, 96)
    exported = torch.export.export(backbone, (images,)).module()(images)
    for name, values in maps_of(backbone, images).items():
        torch.testing.assert_close(exported[name], values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, r"^backbone 'shufflenet_v1': width must be a number above 0 and at most 8, got 0\."),
        (
            {"output_stride": 4},
            r"^backbone 'shufflenet_v1': output_stride must be .* 8, 16, 32, got 4\.",
        ),
        ({"groups": 5}, r"^backbone 'shufflenet_v1': groups must be a whole number out of 1, 2, 3, 4, 8, got 5\."),
        (
            {"width": 1.5, "groups": 2},
            r"^backbone '\w+': width 1\.5 gives stage 2 300 channels, but with groups 2 it needs a multiple of 8 "
            r"above the first convolution's 24; the nearest width is 1\.52\.",
        ),
        ({"width": 1.5, "groups": 4}, r"408 channels, .* a multiple of 16 above .* 24; the nearest width is 1\.529\."),
        ({"width": 0.01}, r"2 channels, .* above the first convolution's 12; the nearest width is 0\.1\."),
        (
            {"stem_channels": 25},
            r"^backbone 'shufflenet_v1': stem_channels must be null or a multiple of groups, which is 3, got 25\.",
        ),
        (
            {"stem_channels": 0},
            r"^backbone 'shufflenet_v1': stem_channels must be a whole number from 1 to 65,536, or null, got 0\.",
        ),
        ({"stem_channels": 240}, r"240 channels, .* above the first convolution's 240; the nearest width is 1\.05\."),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone("shufflenet_v1", **options)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_the_width_that_a_refusal_names_is_taken(groups: int) -> None:
    refused = 0
    for hundredths in range(1, 250, 9):
        width = hundredths / 100
        try:
            on_meta(NAME, width=width, groups=groups)
        except UserError as error:
            on_meta(NAME, width=float(str(error).rstrip(".").split()[-1]), groups=groups)
            refused += 1
    assert 0 < refused < 28
