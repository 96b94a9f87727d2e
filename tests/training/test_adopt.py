"""What the weights decide about a configuration, and what stays the user's."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.errors import UserError
from mbv2kit.training.adopt import adopt
from mbv2kit.training.parts import training_parts
from tests.training.test_start import spec


def compose(root: Path, *overrides: str) -> DictConfig:
    register_parts(root / "conf", training_parts())
    return compose_config(root / "conf", "train", overrides)


def test_what_belongs_to_the_weights_comes_from_them(root: Path) -> None:
    config = compose(root, "backbone.output_stride=16", "backbone.norm_momentum=0.2")
    weights = spec(padding="tf_same", norm_eps=1e-5, output_stride=32, norm_momentum=0.01)
    adopted = adopt(config, weights, "theirs.tflite")
    assert (adopted.backbone.width, adopted.backbone.padding, adopted.backbone.norm_eps) == (0.35, "tf_same", 1e-5)
    assert adopted.normalisation == {"mean": [128.0] * 3, "std": [127.5] * 3}
    # What leaves the meaning of the numbers alone is the user's.
    assert (adopted.backbone.output_stride, adopted.backbone.norm_momentum) == (16, 0.2)
    assert config.backbone.width == 1.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.width=0.5", r"backbone\.width=0\.5, but weights=w go with 0\.35; leave the key out|leave"),
        ("backbone.shrink_last=true", r"backbone\.shrink_last=True, but weights=w go with False"),
        ("normalisation.mean=[1,2,3]", r"normalisation\.mean=\[1, 2, 3\], but weights=w go with \[128\.0"),
        ("backbone=mobilenet_v1", r"weights=w are of mobilenet_v2, .* set backbone=mobilenet_v2"),
    ],
)
def test_asking_for_something_else_is_a_sentence(root: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        adopt(compose(root, override), spec(), "w")


def test_asking_for_the_same_is_fine(root: Path) -> None:
    assert adopt(compose(root, "backbone.width=0.35"), spec(), "w").backbone.width == 0.35


@pytest.mark.parametrize(("theirs", "rates"), [({}, (1, 2, 4)), ({"multi_grid": (1, 1, 1)}, (1, 1, 1))])
def test_rates_in_a_list_come_from_the_weights_too(
    root: Path, caplog: pytest.LogCaptureFixture, theirs: dict[str, Any], rates: tuple[int, ...]
) -> None:
    """A constructor has them as a tuple, a config as a list, and weights as either."""
    caplog.set_level("INFO")
    written = {key: list(value) for key, value in theirs.items()}
    for backbone in (theirs, written):
        weights = replace(spec(), backbone={"name": "resnet_101_beta", **backbone})
        adopted = adopt(compose(root, "backbone=resnet_101_beta"), weights, "w")
        assert tuple(adopted.backbone.multi_grid) == rates
        with pytest.raises(UserError, match=r"backbone\.multi_grid=\[1, 2, 2\], but weights=w go with \[1, "):
            adopt(compose(root, "backbone=resnet_101_beta", "backbone.multi_grid=[1,2,2]"), weights, "w")
    assert ("multi_grid" in caplog.text) == bool(theirs), "what stays as it is need not be told"


def test_rounding_in_vgg16_stays_the_users(root: Path) -> None:
    weights = replace(spec(), backbone={"name": "vgg16", "ceil_pooling": False})
    assert adopt(compose(root, "backbone=vgg16"), weights, "torchvision:vgg16").backbone.ceil_pooling is True


def test_how_a_head_computes_is_not_to_be_contradicted(root: Path) -> None:
    head = {"name": "ssdlite", "padding": "tf_same", "norm_eps": 1e-5, "kernel": 5}
    weights = replace(spec(), heads={"detection": head}, class_names={"detection": ("cat",)})
    adopted = adopt(compose(root, "task=detection", "head.norm_eps=1.0e-5", "head.kernel=1"), weights, "w")
    assert (adopted.head.padding, adopted.head.norm_eps, adopted.head.kernel) == ("tf_same", 1e-5, 1)
    with pytest.raises(UserError, match=r"head\.norm_eps=0\.01, but weights=w go with 1e-05; leave head\.norm_eps out"):
        adopt(compose(root, "task=detection", "head.norm_eps=0.01"), weights, "w")
    with pytest.raises(UserError, match=r"head\.activation=relu, but weights=w go with relu6"):
        adopt(compose(root, "task=detection", "head.activation=relu"), weights, "w")
