"""Every system of the paper's comparison trains an epoch on drawn shapes, is evaluated and sees an image."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning import seed_everything
from omegaconf import DictConfig
from PIL import Image as PillowImage

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.data.sources import create_source
from mbv2kit.evaluation import create_evaluator
from mbv2kit.evaluation.run import evaluate
from mbv2kit.inference.run import infer
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task
from mbv2kit.training.parts import training_parts
from mbv2kit.training.run import train

pytestmark = pytest.mark.usefixtures("clean_process")

SEED = 3
# Keys of a line of predictions.jsonl besides the image's name and size.
RESULT_KEYS: dict[Task, set[str]] = {
    "classification": {"drawing", "classes"},
    "detection": {"drawing", "boxes"},
    "segmentation": {"drawing", "fractions", "mask"},
}
# Layers of SSD that see one map each.
BY_MAP = ("heads.detection.classifiers", "heads.detection.regressors")
# Without decay, weights move only where they have a gradient; without averages and momentum, checkpoints of the large
# systems hold their weights alone.
TRAINING = (
    "optimizer=sgd optimizer.lr=0.01 optimizer.momentum=0 optimizer.nesterov=false optimizer.weight_decay=0 "
    "scheduler=constant ema.decay=null loader.workers=0 trainer.max_epochs=1 trainer.progress_bar=false export=false"
)


class System(NamedTuple):
    """A head on a backbone, on inputs of the fewest pixels that it can do with.

    Attributes:
        task: What it does.
        head: Name of the head.
        backbone: Name of the backbone.
        side: Height and width of its input in pixels.
        options: Further overrides.
        images: To train on, in two steps or, where they are two, in one; half as many to validate on.
    """

    task: Task
    head: str
    backbone: str
    side: int
    options: tuple[str, ...] = ()
    images: int = 8

    def __str__(self) -> str:
        return "-".join((self.head, self.backbone, *(option.partition(".")[2] for option in self.options)))


def classifier(backbone: str, *options: str) -> System:
    return System("classification", "classifier", backbone, 32, options)


def segmenter(backbone: str, output_stride: int) -> System:
    options = f"backbone.output_stride={output_stride}", "head.aspp=true"
    return System("segmentation", "deeplab_v3", backbone, 33, options)


QUICK = [
    classifier("mobilenet_v1"),
    classifier("mobilenet_v2"),
    *(classifier("shufflenet_v1", f"backbone.groups={groups}") for groups in (1, 2, 3, 4, 8)),
    classifier("nasnet_a"),
    classifier("vgg16"),
    System("detection", "ssdlite", "mobilenet_v1", 64),
    System("detection", "ssdlite", "mobilenet_v2", 64),
    System("detection", "ssd", "mobilenet_v2", 64),
    *(segmenter(backbone, stride) for backbone in ("mobilenet_v1", "mobilenet_v2") for stride in (16, 8)),
]
SLOW = [
    classifier("darknet_19"),
    classifier("resnet_101"),
    System("detection", "yolo_v2", "darknet_19", 64),
    System("detection", "yolo_v2", "mobilenet_v2", 64),
    System("detection", "ssd300", "vgg16", 300, images=2),
    System("detection", "ssd512", "vgg16", 512, images=2),
    *(segmenter(backbone, stride) for backbone in ("resnet_101", "resnet_101_beta") for stride in (16, 8)),
]
ALL = [*QUICK, *(pytest.param(system, marks=pytest.mark.slow) for system in SLOW)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A folder for a run, which is gone after the test."""
    folder = tmp_path / "run"
    yield RunFolder(folder)
    shutil.rmtree(folder)


def compose(root: Path, tool: str, *overrides: str) -> DictConfig:
    register_parts(root / "conf", training_parts())
    return compose_config(root / "conf", tool, overrides)


def train_briefly(root: Path, system: System, run: RunFolder) -> None:
    train(
        compose(
            root,
            "train",
            f"task={system.task}",
            f"head={system.head}",
            f"backbone={system.backbone}",
            *system.options,
            f"input.size=[{system.side},{system.side}]",
            "dataset.size=64",
            f"dataset.train_count={system.images}",
            f"dataset.val_count={system.images // 2}",
            f"loader.batch_size={max(2, system.images // 2)}",
            *TRAINING.split(),
            f"seed={SEED}",
            f"run_dir='{run.path}'",
        )
    )


def figures(root: Path, run: RunFolder, folder: Path, tta: str = "none") -> dict[str, Any]:
    """Evaluates a run, checks that every figure of the task is there, and returns the content of ``metrics.json``."""
    evaluate(compose(root, "eval", f"checkpoint='{run.path}'", f"tta={tta}", "loader.workers=0", f"run_dir='{folder}'"))
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    assert list(content["metrics"]) == list(create_evaluator(content["task"], ["a", "b"]).compute().metrics)
    known = [value for value in content["metrics"].values() if value is not None]
    assert known
    assert all(0 <= value <= 1 for value in known)
    return content


def losses(run: RunFolder) -> list[float]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def untrained_layers(run: RunFolder) -> list[str]:
    """Returns the convolutions and linear layers none of whose weights differs from a fresh model of the same seed.

    Scales and biases before a batch norm may have no gradient, for it takes their effect away.
    """
    trained = VisionModel.load(run.model)
    seed_everything(SEED, verbose=False)
    fresh = dict(VisionModel(trained.spec).named_parameters())
    layers = {name: weight for name, weight in trained.named_parameters() if weight.ndim > 1}
    return [name for name, weight in layers.items() if torch.equal(weight, fresh[name])]


@pytest.mark.parametrize("system", ALL, ids=str)
def test_it_trains_is_evaluated_and_infers(system: System, root: Path, run: RunFolder, tmp_path: Path) -> None:
    train_briefly(root, system, run)
    (loss,) = losses(run)
    assert math.isfinite(loss)
    # Few images have no box for some of the maps.
    assert not [name for name in untrained_layers(run) if not name.startswith(BY_MAP)]

    content = figures(root, run, tmp_path / "evaluation")
    assert (content["task"], content["images"]) == (system.task, system.images // 2)
    assert (content["model"]["backbone"]["name"], content["model"]["head"]["name"]) == (system.backbone, system.head)

    image = tmp_path / "image.png"
    PillowImage.fromarray(create_source("shapes", task=system.task, split="val", size=72)[0].image).save(image)
    output = tmp_path / "predictions"
    assert infer(compose(root, "infer", f"checkpoint='{run.path}'", f"output='{output}'"), [str(image)]) == 0
    (line,) = (output / "predictions.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert (record.pop("image"), record.pop("width"), record.pop("height")) == (str(image), 72, 72)
    assert record.pop("task") == system.task
    assert set(record) == RESULT_KEYS[system.task]


@pytest.mark.parametrize(
    "system",
    [classifier("mobilenet_v2"), System("detection", "ssdlite", "mobilenet_v2", 64), segmenter("mobilenet_v2", 16)],
    ids=str,
)
def test_it_is_evaluated_at_six_scales_and_mirrored(system: System, root: Path, run: RunFolder, tmp_path: Path) -> None:
    train_briefly(root, system, run)
    content = figures(root, run, tmp_path / "evaluation", "multiscale_flip")
    assert (content["task"], content["images"], content["tta"]) == (
        system.task,
        system.images // 2,
        "multiscale_flip",
    )
    assert content["model"] == json.loads(run.metrics.read_text())["model"]
