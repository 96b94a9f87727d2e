"""The paper's training set-ups, compared with the paper and its authors' code."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.data.augment import create_augment
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.model import model_spec
from mbv2kit.training.parts import training_parts
from mbv2kit.training.schedules import Schedule, create_schedule

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "conf" / "experiment" / "paper"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.yaml")) if not path.stem.startswith("ablation")]

IMAGENET, COCO, TRAINAUG, VOC0712 = 1_281_167, 118_287, 10_582, 16_551

Setup = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def setup() -> Setup:
    """Composes a set-up and resolves it."""
    register_parts(ROOT / "conf", training_parts())

    composed = cache(lambda *lines: compose_config(ROOT / "conf", "train", lines))

    def compose(name: str, *overrides: str) -> dict[str, Any]:
        config = composed(f"experiment=paper/{name}", *overrides)
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]

    return compose


@pytest.fixture(scope="module")
def published() -> Any:
    """What the paper and its authors say about training, or a skipped test where it is not on this machine."""
    path = Path(os.environ.get("MBV2KIT_SHARED", ROOT.parent / "shared")) / "paper" / "tables.yaml"
    if not path.is_file():
        pytest.skip(f"needs {path}; set MBV2KIT_SHARED to the folder that holds paper/")
    return yaml.safe_load(path.read_text())


def value(entry: dict[str, Any]) -> Any:
    return entry["value"]


def schedule_of(config: dict[str, Any], images: int) -> tuple[Schedule, int]:
    """The schedule on a data set of so many images, and the number of steps of the whole run."""
    steps = images // config["loader"]["batch_size"]
    return create_schedule(config["scheduler"], steps, config["trainer"]["max_epochs"]), steps * config["trainer"][
        "max_epochs"
    ]


# Not in the tables.


def test_imagenet_is_section_6_1(setup: Setup, published: Any) -> None:
    config, text = setup("imagenet"), published["training"]["section_6_1"]
    readme = published["training"]["slim_readme"]
    assert (config["backbone"]["name"], config["optimizer"]["name"]) == ("mobilenet_v2", "rmsprop")
    assert config["optimizer"]["decay"] == value(text["decay"])
    assert config["optimizer"]["momentum"] == value(text["momentum"])
    assert config["optimizer"]["weight_decay"] == value(text["weight_decay"])
    assert config["optimizer"]["lr"] == value(text["initial_lr"])
    assert config["scheduler"]["gamma"] == value(text["lr_decay_per_epoch"]) == value(readme["lr_decay_factor"])
    assert config["loader"]["batch_size"] == value(text["batch_size"]) == value(readme["batch_size"])
    assert config["head"]["label_smoothing"] == value(readme["label_smoothing"])
    assert config["ema"]["decay"] == value(readme["ema_decay"])
    assert readme["num_epochs_per_decay"] == f"{config['scheduler']['decay_epochs']} / NUM_GPUS"
    _, steps = schedule_of(config, IMAGENET)
    assert readme["steps_1_gpu"] == f"{steps / 1e6:.1f}M"


def test_the_header_of_imagenet_has_the_22_published_forms(published: Any) -> None:
    lines = [line.lstrip("# ").split() for line in (FOLDER / "imagenet.yaml").read_text().splitlines()]
    sizes = next([int(size) for size in line] for line in lines if line[:2] == ["224", "192"])
    rows = [line for line in lines if line and line[0] in ("1.4", "1.3", "1.0", "0.75", "0.5", "0.35")]
    found = {}
    for width, *figures in rows:
        numbers = [figure for figure in figures if figure.replace(".", "").isdigit()]
        found.update({(float(width), size): float(top1) for size, top1 in zip(sizes, numbers, strict=False)})
    expected = {(row["width"], row["resolution"]): value(row["top1"]) for row in published["figure5_points"]["rows"]}
    assert len(expected) == 22
    assert found == expected


def test_ssdlite_is_section_6_2_and_the_published_configuration(setup: Setup, published: Any) -> None:
    config, text = setup("ssdlite_coco"), published["training"]["od_api_ssdlite_config"]
    side = value(published["training"]["section_6_2"]["input"])
    assert config["input"]["size"] == [side, side]
    optimizer = config["optimizer"]
    _, steps = schedule_of(config, COCO)
    falls = config["scheduler"]["decay_epochs"] * (COCO // config["loader"]["batch_size"])
    assert falls == pytest.approx(800_720, rel=1e-3)
    assert steps > falls
    assert text["optimizer"] == (
        f"RMSProp lr {optimizer['lr']}, momentum {optimizer['momentum']}, decay {optimizer['decay']}, "
        f"epsilon {optimizer['eps']}, x{config['scheduler']['gamma']} per 800720 steps"
    )
    assert config["loader"]["batch_size"] == value(text["batch_size"])
    assert optimizer["weight_decay"] == value(text["weight_decay"])
    assert config["head"]["nms_iou"] == value(text["nms_iou"])
    assert text["matcher"] == f"IoU {config['head']['match_iou']}"
    for part in ("backbone", "head"):
        decay = 1 - config[part]["norm_momentum"]
        assert text["bn"] == f"decay {decay:.4f}, epsilon {config[part]['norm_eps']}"


def test_deeplab_is_section_6_3(setup: Setup, published: Any) -> None:
    config, text = setup("deeplab_voc"), published["training"]["section_6_3"]
    assert config["head"]["channels"] == value(text["head_depth"])
    assert config["backbone"]["output_stride"] in value(text["output_stride"])
    assert config["head"]["aspp"] is False
    assert config["input"]["size"] == [513, 513]
    assert all(abs(side - value(text["image_size"])) == 1 for side in config["input"]["size"])


@pytest.mark.parametrize(
    ("name", "table", "network", "figure"),
    [
        ("ssdlite_coco", "table6_coco", "MNet V2 + SSDLite", "map"),
        ("ssdlite_mobilenet_v1_coco", "table6_coco", "MNet V1 + SSDLite", "map"),
        ("ssd300_voc", "table6_coco", "SSD300", "map"),
        ("ssd512_voc", "table6_coco", "SSD512", "map"),
        ("deeplab_voc", "table7_voc", "MNet V2*", "miou"),
        ("deeplab_voc", "table7_voc", "MNet V1", "miou"),
    ],
)
def test_the_header_quotes_the_paper_s_figures(
    published: Any, name: str, table: str, network: str, figure: str
) -> None:
    header = (FOLDER / f"{name}.yaml").read_text().partition("defaults:")[0]
    rows = [row for row in published[table]["rows"] if row["network"] == network]
    assert rows
    for row in rows:
        assert f"{value(row[figure]):.3g}" in header or f"{value(row[figure]):.2f}" in header


# What the tables do not hold.


def test_imagenet_falls_every_two_and_a_half_epochs(setup: Setup) -> None:
    config = setup("imagenet")
    schedule, steps = schedule_of(config, IMAGENET)
    # The authors' decay_steps for one GPU.
    every = int(IMAGENET * 2.5 / 96)
    assert schedule(every - 100) == 1
    assert schedule(every + 100) == 0.98
    assert schedule(steps - 1) == pytest.approx(0.98**164)
    assert config["optimizer"]["decay_norm_bias_depthwise"] is False
    assert (config["optimizer"]["eps"], config["head"]["dropout"]) == (1.0, 0.2)
    assert (config["backbone"]["norm_momentum"], config["backbone"]["norm_eps"]) == (pytest.approx(1 - 0.997), 1e-3)


def test_deeplab_is_trained_as_its_code_does(setup: Setup) -> None:
    config = setup("deeplab_voc")
    optimizer = config["optimizer"]
    assert (optimizer["name"], optimizer["lr"], optimizer["momentum"], optimizer["nesterov"]) == (
        "sgd",
        7e-3,
        0.9,
        False,
    )
    assert optimizer["weight_decay"] == 4e-5
    schedule, steps = schedule_of(config, TRAINAUG)
    assert 0 <= steps - 30_000 < TRAINAUG // 16
    assert schedule(steps // 2) == pytest.approx(0.5**0.9, rel=1e-4)
    assert (config["augment"]["scale"], config["augment"]["scale_step"]) == ([0.5, 2.0], 0.25)
    assert (config["dataset"]["train_split"], config["dataset"]["val_split"]) == ("trainaug", "val")


def test_coco_comes_before_voc_with_the_same_network(setup: Setup) -> None:
    before, after = setup("deeplab_coco"), setup("deeplab_voc")
    for part in ("backbone", "head", "input", "normalisation", "optimizer", "augment"):
        assert before[part] == after[part]
    dataset = before["dataset"]
    assert (dataset["name"], dataset["train_split"], dataset["val_split"]) == ("coco", "train2017", "val2017")


@pytest.mark.parametrize(("name", "side"), [("ssd300_voc", 300), ("ssd512_voc", 512)])
def test_ssd_is_trained_as_its_authors_do(setup: Setup, name: str, side: int) -> None:
    config = setup(name)
    optimizer = config["optimizer"]
    assert (config["backbone"]["name"], config["head"]["name"]) == ("vgg16", name.removesuffix("_voc"))
    assert config["input"]["size"] == [side, side]
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (1e-3, 0.9, 5e-4)
    assert config["loader"]["batch_size"] == 32
    schedule, steps = schedule_of(config, VOC0712)
    assert steps == pytest.approx(120_000, rel=2e-3)
    for step, factor in ((79_000, 1), (81_000, 0.1), (99_000, 0.1), (101_000, 0.01)):
        assert schedule(step) == pytest.approx(factor)


def test_yolo_v2_is_trained_as_its_authors_do(setup: Setup) -> None:
    config = setup("yolo_v2_voc")
    optimizer = config["optimizer"]
    assert (config["backbone"]["name"], config["head"]["name"]) == ("darknet_19", "yolo_v2")
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (1e-3, 0.9, 5e-4)
    assert (config["trainer"]["max_epochs"], config["scheduler"]["milestones"]) == (160, [60, 90])
    schedule, _ = schedule_of(config, VOC0712)
    steps = VOC0712 // 64
    assert [schedule(epoch * steps) for epoch in (59, 60, 90, 159)] == pytest.approx([1, 0.1, 0.01, 0.01])


def test_the_two_ssdlites_differ_in_the_backbone_alone(setup: Setup) -> None:
    v2, v1 = setup("ssdlite_coco"), setup("ssdlite_mobilenet_v1_coco")
    assert (v2.pop("backbone")["name"], v1.pop("backbone")["name"]) == ("mobilenet_v2", "mobilenet_v1")
    del v1["run_dir"], v2["run_dir"]
    assert v1 == v2


def test_the_head_of_ssdlite_is_padded_like_the_backbone(setup: Setup) -> None:
    assert setup("ssdlite_coco")["head"]["padding"] == "symmetric"
    assert setup("ssdlite_coco", "backbone.padding=tf_same")["head"]["padding"] == "tf_same"


# All of them.


@pytest.mark.parametrize("name", NAMES)
def test_a_header_says_how_to_run_it_and_where_the_figures_are_from(name: str) -> None:
    header = [line for line in (FOLDER / f"{name}.yaml").read_text().partition("defaults:")[0].splitlines() if line]
    assert header[0] == "# @package _global_"
    assert all(line.startswith("#") for line in header)
    assert any(f"mbv2kit train experiment=paper/{name} dataset.root=DIR" in line for line in header)
    assert "Table" in " ".join(header) or name == "deeplab_coco"


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_takes_the_values(setup: Setup, name: str) -> None:
    config = setup(name)
    create_augment(config["augment"], Preprocess(**config["input"]))


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_fit_together(setup: Setup, name: str) -> None:
    config = setup(name)
    spec = model_spec(config, {config["task"]["name"]: ("background", "cat", "dog")}, {})
    with torch.device("meta"):
        model = VisionModel(spec).train()
        raw = model(torch.zeros(2, 3, *spec.input.size, dtype=torch.uint8))
    assert list(raw) == [config["task"]["name"]]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_for_a_gpu_and_data_that_the_command_line_can_name(setup: Setup, name: str) -> None:
    config = setup(name, "dataset.root=/data/here", "trainer.precision=32-true", "weights=run")
    assert config["dataset"]["root"] == "/data/here"
    assert (config["trainer"]["accelerator"], config["trainer"]["precision"]) == ("gpu", "32-true")
