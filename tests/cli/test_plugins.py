"""A package outside the checkout brings a backbone, a head, a data set and an augmentation to every command."""

import json
import subprocess
from pathlib import Path
from shutil import copytree

import pytest
from PIL import Image as PillowImage

from tests.processes import run_forked

pytestmark = pytest.mark.slow

PLUGIN = '''
"""A network, a head, images and an augmentation that mbv2kit does not have."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mbv2kit.backbones import BACKBONES, Backbone
from mbv2kit.data.augment import PRESETS, Augment
from mbv2kit.data.augment.view import View
from mbv2kit.data.sources import SOURCES, Source
from mbv2kit.heads import HEADS, Head
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.structures import Sample


@BACKBONES.register("blocks")
class Blocks(Backbone):
    def __init__(self, width: float = 1.0, output_stride: int = 32, depth: int = 5) -> None:
        super().__init__()
        channels = [3] + [int(8 * width)] * depth
        names = [f"block_{i}" for i in range(1, depth + 1)]
        self.layers = nn.ModuleDict({
            name: nn.Sequential(nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1), nn.ReLU())
            for i, name in enumerate(names)
        })
        self.feature_info = tuple(FeatureInfo(name, channels[-1], 2 ** (i + 1)) for i, name in enumerate(names))
        self.selected = tuple(names)


@HEADS.register("cosine")
class Cosine(Head):
    task = "classification"

    def __init__(self, feature_info, num_classes: int, sharpness: float = 4.0) -> None:
        super().__init__()
        self.features = (feature_info[-1].name,)
        self.sharpness = sharpness
        self.centers = nn.Parameter(torch.randn(num_classes, feature_info[-1].channels))

    def forward(self, features):
        pooled = F.normalize(features[self.features[0]].mean(dim=(2, 3)), dim=1)
        return {"logits": self.sharpness * pooled @ F.normalize(self.centers, dim=1).T}

    def loss(self, raw, targets):
        return {"classification": F.cross_entropy(raw["logits"].float(), targets["label"])}

    def outputs(self, raw, size):
        return {"probabilities": raw["logits"].float().softmax(dim=-1)}


@SOURCES.register("stripes")
class Stripes(Source):
    provides = frozenset({"classification"})
    layout = ""

    def __init__(self, *, task: str, split: str, period: int = 8) -> None:
        self.class_names = ("horizontal", "vertical")
        self.period = period

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Sample:
        ramp = (np.arange(32) + index) % self.period * (255 // self.period)
        image = np.broadcast_to(ramp[:, None, None], (32, 32, 3)).astype(np.uint8)
        image = image if index % 2 == 0 else image.swapaxes(0, 1)
        return Sample(image=np.ascontiguousarray(image), image_id=str(index), label=index % 2)


@PRESETS.register("whole")
class Whole(Augment):
    def choose_view(self, sample, rng) -> View:
        height, width = sample.image.shape[:2]
        return View.through((0, 0, width, height), (height, width), self.size)
'''
TINY = (
    "task=classification backbone=blocks backbone.depth=4 head=cosine head.sharpness=5 dataset=stripes "
    "dataset.period=4 augment=whole input.size=[32,32] loader.batch_size=4 loader.workers=0 trainer.max_epochs=1"
)
NAMED = "plugins=[stripes_kit]"
MISSING = "needs the plugin stripes_kit, which is not installed; install it, or name it with plugins=[stripes_kit]."


def mbv2kit(root: Path, here: Path, *arguments: str, installed: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command as an installed one: the current folder is not on Python's path."""
    name, *others = arguments
    return run_forked(root / "tools" / f"{name}.py", *others, cwd=here, paths=[installed] if installed else [])


@pytest.fixture(scope="module")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin, a run that was trained with it, and an image."""
    here = tmp_path_factory.mktemp("here")
    (here / "stripes_kit").mkdir()
    (here / "stripes_kit" / "__init__.py").write_text(PLUGIN)
    (here / "recipe.yaml").write_text("defaults:\n  - override /dataset: stripes\n  - _self_\nplugins: [stripes_kit]\n")
    PillowImage.new("RGB", (40, 30), (200, 30, 60)).save(here / "red.png")
    done = mbv2kit(root, here, "train", NAMED, *TINY.split(), "run_dir=run")
    assert done.returncode == 0, done.stderr
    return here


def test_the_model_says_which_plugin_it_needs(trained: Path) -> None:
    content = json.loads((trained / "run" / "model" / "model.json").read_text())
    assert content["plugins"] == ["stripes_kit"]
    assert content["backbone"]["depth"] == 4
    assert content["heads"]["classification"] == {"name": "cosine", "sharpness": 5}
    assert [export["file"] for export in content["exports"]] == ["model.onnx"]


@pytest.mark.parametrize(
    "command",
    ["eval checkpoint=run", "export checkpoint=run", "infer red.png checkpoint=run runtime=torch", "train resume=run"],
)
def test_a_command_without_the_plugin_asks_for_it(root: Path, trained: Path, command: str) -> None:
    done = mbv2kit(root, trained, *command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: The ")
    assert done.stderr.endswith(f"{MISSING}\n")


@pytest.mark.parametrize(
    "command",
    [
        f"eval checkpoint=run run_dir=evaluated {NAMED}",
        f"export checkpoint=run output=exported {NAMED}",
        f"infer red.png checkpoint=run runtime=torch output=found {NAMED}",
        "train experiment=recipe.yaml backbone.width=0.35 loader.workers=0 trainer.max_epochs=1 export=false",
    ],
)
def test_a_command_takes_a_plugin_by_its_name(root: Path, trained: Path, command: str) -> None:
    done = mbv2kit(root, trained, *command.split())
    assert done.returncode == 0, done.stderr


def test_an_installed_plugin_needs_no_name(root: Path, trained: Path, tmp_path: Path) -> None:
    copytree(trained / "run", tmp_path / "run")
    packages = tmp_path / "site-packages"
    copytree(trained / "stripes_kit", packages / "stripes_kit")
    info = packages / "stripes_kit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes-kit\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mbv2kit.plugins]\nstripes = stripes_kit\n")
    done = mbv2kit(root, tmp_path, "train", "resume=run", "trainer.max_epochs=2", installed=packages)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3


def test_an_exported_file_needs_no_plugin(root: Path, trained: Path) -> None:
    done = mbv2kit(root, trained, "infer", "red.png", "checkpoint=run", "output=exported_only")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((trained / "exported_only" / "predictions.jsonl").read_text())
    assert {each["label"] for each in record["classes"]} == {"horizontal", "vertical"}


def test_a_model_folder_imports_nothing(root: Path, trained: Path, tmp_path: Path) -> None:
    """Even a module that lies ready on Python's path is not imported because a model names it."""
    copytree(trained / "run" / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"plugins": ["trap"]}))
    (tmp_path / "trap.py").write_text("open('sprung', 'w')\n")
    for command in (
        "eval checkpoint=model dataset=shapes",
        f"infer {trained / 'red.png'} checkpoint=model runtime=torch",
    ):
        done = mbv2kit(root, tmp_path, *command.split(), installed=tmp_path)
        assert done.returncode == 2
        assert "needs the plugin trap, which is not installed" in done.stderr
    assert not (tmp_path / "sprung").exists()
