"""What every registered backbone must do; what is special about one is tested in the file of its name."""

from math import ceil
from typing import Any

import pytest
import torch
from torch import nn

from mbv2kit.backbones import BACKBONES, create_backbone, list_backbones
from mbv2kit.errors import UserError
from mbv2kit.heads import create_head
from tests.backbones.build import maps_of, on_meta, randomized, with_weights_of

# Options that make a network small.
SMALL: dict[str, dict[str, Any]] = {
    "mobilenet_v1": {"width": 0.25},
    "mobilenet_v2": {"width": 0.35},
    "nasnet_a": {"cells": 1, "penultimate_filters": 96},
    "shufflenet_v1": {"width": 0.25},
}
STRIDED = [name for name in list_backbones() if "output_stride" in BACKBONES.options(name)]
WIDE = [name for name in list_backbones() if "width" in BACKBONES.options(name)]
NORMED = [name for name in list_backbones() if "norm_eps" in BACKBONES.options(name)]
PADDED = [name for name in list_backbones() if "padding" in BACKBONES.options(name)]
FORMS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in list_backbones()]
FORMS += [(name, {"output_stride": stride}) for name in STRIDED for stride in (16, 8)]
FORMS += [(name, {"padding": "tf_same"}) for name in PADDED]
# Its first convolution is not padded.
UNPADDED = {"nasnet_a": 2}
NORMS = {
    "darknet_19": 18,
    "mobilenet_v1": 27,
    "mobilenet_v2": 52,
    "nasnet_a": 192,
    "resnet_101": 104,
    "resnet_101_beta": 106,
    "shufflenet_v1": 49,
}
# Maps that a head reads unless it is told others.
READS = {
    "darknet_19": ("conv13", "conv17", "conv18"),
    "mobilenet_v1": ("layer_12", "layer_13", "layer_14"),
    "mobilenet_v2": ("layer_15_expansion", "layer_18", "layer_19"),
    "nasnet_a": ("cell_8", "cell_11", "cell_12"),
    "resnet_101": ("stage_3", "stage_3", "stage_4"),
    "resnet_101_beta": ("stage_3_22", "stage_4_2", "stage_4_3"),
    "shufflenet_v1": ("stage_3_8", "stage_4_3", "stage_4_4"),
    "vgg16": ("conv5_3", "conv5_3", "pool5"),
}


@pytest.mark.parametrize(("name", "form"), FORMS)
@pytest.mark.parametrize("size", [(224, 160), (225, 193), (63, 97), (34, 66), (33, 3)])
def test_every_map_has_the_announced_channels_and_size(name: str, form: dict[str, Any], size: tuple[int, int]) -> None:
    backbone = on_meta(name, **SMALL.get(name, {}), **form)
    maps = backbone(torch.empty(2, 3, *size, device="meta"))
    assert list(maps) == [info.name for info in backbone.feature_info]
    for info in backbone.feature_info:
        height, width = (ceil((side - UNPADDED.get(name, 0)) / info.stride) for side in size)
        assert maps[info.name].shape == (2, info.channels, height, width), info.name


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_maps_come_from_the_finest_to_the_deepest_and_lie_in_layers_of_their_name(
    name: str, form: dict[str, Any]
) -> None:
    backbone = on_meta(name, **form)
    strides = [info.stride for info in backbone.feature_info]
    assert strides == sorted(strides)
    assert strides[-1] == form.get("output_stride", 32)
    assert backbone.selected == tuple(info.name for info in backbone.feature_info)
    needed = [len(backbone.layers_until(map_name)) for map_name in backbone.selected]
    assert needed == sorted(needed)
    assert needed[-1] == len(backbone.layers)


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("size", [(65, 97), (64, 96), (50, 71)])
def test_dilation_gives_the_strided_maps_and_those_between(name: str, size: tuple[int, int]) -> None:
    # At a very small width a strided block of MobileNetV2 keeps its channels, but must not add its input.
    for options in [SMALL.get(name, {})] + [{"width": 0.1}] * (name == "mobilenet_v2"):
        strided = randomized(name, **options)
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        expected = maps_of(strided, images)
        deepest = strided.feature_info[-1].name
        assert expected[deepest].std() > 0.1
        for output_stride in (16, 8):
            backbone = with_weights_of(strided, name, **options, output_stride=output_stride)
            dilated = maps_of(backbone, images)
            for info, wide in zip(backbone.feature_info, strided.feature_info, strict=True):
                step = wide.stride // info.stride
                torch.testing.assert_close(dilated[info.name][..., ::step, ::step], expected[info.name])
            assert dilated[deepest].shape[2] > expected[deepest].shape[2]


@pytest.mark.parametrize("name", list_backbones())
def test_selecting_maps_changes_none_of_them_and_drops_the_layers_behind(name: str) -> None:
    options = SMALL.get(name, {})
    whole = randomized(name, **options)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = maps_of(whole, images)
    names = whole.selected
    chosen = (names[len(names) // 3], names[2 * len(names) // 3])
    part = with_weights_of(whole, name, **options)
    part.select(reversed(chosen))
    assert part.selected == chosen
    found = maps_of(part, images)
    assert tuple(found) == chosen
    for map_name in chosen:
        # A map that a later layer has written on would differ.
        assert torch.equal(found[map_name], expected[map_name])
    assert list(part.layers) == list(whole.layers)[: len(whole.layers_until(chosen[-1]))]
    assert len(part.layers) < len(whole.layers)


@pytest.mark.parametrize("name", list_backbones())
def test_an_unknown_map_is_answered_with_the_nearest(name: str) -> None:
    backbone = on_meta(name)
    slip = f"{backbone.selected[0]}x"
    with pytest.raises(UserError, match=rf"no feature map '{slip}'\. Did you mean"):
        backbone.select([slip])


GRADIENTS: list[tuple[str, dict[str, Any]]] = [
    *[(name, SMALL.get(name, {})) for name in list_backbones() if name != "mobilenet_v2"],
    # A norm that starts at zero passes no gradient.
    ("mobilenet_v2", {"width": 0.35, "zero_init_residual": False}),
    ("nasnet_a", {"cells": 2, "penultimate_filters": 264}),
    ("resnet_101_beta", {"output_stride": 16}),
    ("shufflenet_v1", {"width": 0.25, "output_stride": 8}),
]


@pytest.mark.parametrize(("name", "options"), GRADIENTS)
def test_a_gradient_reaches_every_number(name: str, options: dict[str, Any]) -> None:
    backbone = create_backbone(name, **options).train()
    last = list(backbone(torch.randn(2, 3, 96, 129)).values())[-1]
    (last * torch.randn_like(last)).sum().backward()
    for path, parameter in backbone.named_parameters():
        assert parameter.grad is not None, path
        assert torch.isfinite(parameter.grad).all(), path
        assert parameter.grad.abs().max() > 0, path


@pytest.mark.parametrize("name", NORMED)
def test_norms_have_the_epsilon_and_momentum_asked_for(name: str) -> None:
    defaults = BACKBONES.options(name)
    usual = (defaults["norm_eps"], defaults["norm_momentum"])
    for options, expected in (({}, usual), ({"norm_eps": 0.25, "norm_momentum": 0.5}, (0.25, 0.5))):
        norms = [part for part in on_meta(name, **options).modules() if isinstance(part, nn.BatchNorm2d)]
        assert len(norms) == NORMS[name]
        assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


@pytest.mark.parametrize("name", sorted(set(list_backbones()) - set(NORMED)))
def test_networks_without_these_options_have_no_norms(name: str) -> None:
    assert not any(isinstance(part, nn.BatchNorm2d) for part in on_meta(name).modules())


@pytest.mark.parametrize("name", list_backbones())
@pytest.mark.parametrize("head", ["classifier", "deeplab_v3", "ssd", "ssdlite", "yolo_v2"])
def test_heads_read_the_deepest_maps_and_the_layers_behind_are_dropped(name: str, head: str) -> None:
    backbone = on_meta(name)
    at_16, second_last, last = READS[name]
    with torch.device("meta"):
        part = create_head(head, backbone.feature_info, 3)
    expected = {"classifier": (last,), "deeplab_v3": (second_last,)}.get(head, (at_16, last))
    assert part.features == expected
    backbone.select(part.features)
    assert len(backbone.layers) == len(backbone.layers_until(expected[-1]))
    part(backbone(torch.empty(2, 3, 97, 128, device="meta")))


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            STRIDED,
            {"output_stride": 4},
            r"backbone '{}': output_stride must be .* 8, 16, 32, got 4\.",
        ),
        (
            STRIDED,
            {"output_stride": 64},
            r"backbone '{}': output_stride must be .* 8, 16, 32, got 64\.",
        ),
        (WIDE, {"width": 0}, r"backbone '{}': width must be a number above 0 and at most 8, got 0\."),
        (WIDE, {"width": -1}, r"backbone '{}': width must be a number above 0 and at most 8, got -1\."),
        (
            PADDED,
            {"padding": "same"},
            r"backbone '{}': padding .*, got 'same'\. Did you mean 'tf_same'\?",
        ),
        (list_backbones(), {"no_such_option": 1}, r"backbone '{}' has no option 'no_such_option'\."),
    ],
)
def test_options_out_of_range_are_refused(names: list[str], options: dict[str, Any], message: str) -> None:
    assert names
    for name in names:
        with pytest.raises(UserError, match=message.format(name)):
            on_meta(name, **options)


def test_options_that_stay_the_users_exist_somewhere() -> None:
    for name in list_backbones():
        own = BACKBONES.get_class(name).free_options - {"output_stride", "norm_momentum"}
        assert own <= set(BACKBONES.options(name))
