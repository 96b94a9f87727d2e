"""The package as strangers get it: built, installed into an environment of its own, and run from an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image as PillowImage

from mbv2kit import __version__
from mbv2kit.commands import COMMANDS

pytestmark = pytest.mark.slow

TINY = (
    "task=classification input.size=[32,32] backbone.width=0.35 dataset.size=64 dataset.train_count=8 "
    "dataset.val_count=4 loader.batch_size=4 loader.workers=0 trainer.max_epochs=1 run_dir=run"
)
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


@pytest.fixture(scope="module")
def sdist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from a copy of the checkout."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("mbv2kit", "conf", "tools", "tests"):
        shutil.copytree(root / name, source / name, ignore=ignored)
    for path in root.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    return build("build_sdist", source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    source = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(source, filter="data")
    return build("build_wheel", next(source.iterdir()), sdist.parent)


def build(step: str, source: Path, target: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, step, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


class Environment:
    """A fresh virtual environment with the wheel in it, and a shell in an empty folder.

    Args:
        folder: Where it goes.
        wheel: What is installed.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin = folder / "venv" / "bin"
        self.here = folder / "here"
        self.here.mkdir()
        venv.create(folder / "venv", symlinks=True)
        (self.packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *install], check=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of the environment."""
        # Neither the checkout nor this process's environment has a part in it.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.here,
            env=environment | {"NO_ALBUMENTATIONS_UPDATE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with every package of this one."""
    environment = Environment(tmp_path_factory.mktemp("full"), wheel)
    (environment.packages / "all.pth").write_text(str(Path(np.__file__).parents[1]))
    return environment


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with what the wheel requires without an extra, and nothing else."""
    environment = Environment(tmp_path_factory.mktemp("base"), wheel)
    tops = {file.parts[0] for name in required() for file in distribution(name).files or []}
    for top in tops - {"..", "__pycache__"}:
        (environment.packages / top).symlink_to(Path(np.__file__).parents[1] / top)
    return environment


def required() -> Iterator[str]:
    """Yields the distributions that pyproject.toml requires without an extra, and those that they require."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    waiting, found = list(project["dependencies"]), set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += distribution(name).requires or []
            yield name


def test_the_source_holds_what_the_tests_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"conf/train.yaml", "tools/train.py", "tests/test_wheel.py", "Makefile", "LICENSE"} <= names


def test_the_wheel_holds_every_module_and_configuration(root: Path, wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(root)) for path in (root / "mbv2kit").rglob("*.py")}
    configurations = {str("mbv2kit" / path.relative_to(root)) for path in (root / "conf").rglob("*.yaml")}
    assert names == modules | configurations | {"mbv2kit/py.typed", "mbv2kit/lab/paper/published.yaml"}


def test_the_command_trains_and_predicts(full: Environment) -> None:
    version = full.run("mbv2kit", "--version")
    assert (version.stdout, version.stderr) == (f"mbv2kit {__version__}\n", "")
    assert "cut-objects" in full.run("mbv2kit", "--help").stdout
    assert "run_dir=outputs/demo" in full.run("mbv2kit", "demo", "--help").stdout
    assert list(full.here.iterdir()) == []

    trained = full.run("mbv2kit", "train", *TINY.split())
    assert trained.returncode == 0, trained.stderr
    PillowImage.new("RGB", (40, 30), (200, 30, 60)).save(full.here / "red.png")
    found = full.run("mbv2kit", "infer", "red.png", "checkpoint=run", "output=found")
    assert found.returncode == 0, found.stderr
    record = json.loads((full.here / "found" / "predictions.jsonl").read_text())
    assert (record["image"], record["task"], record["width"]) == ("red.png", "classification", 40)
    module = full.run("python", "-c", "import mbv2kit; print(mbv2kit.__file__)")
    assert module.stdout.strip() == str(full.packages / "mbv2kit" / "__init__.py")


def test_without_the_packages_of_training_exported_files_run(full: Environment, base: Environment) -> None:
    if not (full.here / "run").exists():
        assert full.run("mbv2kit", "train", *TINY.split()).returncode == 0
    shutil.copytree(full.here / "run" / "model", base.here / "model")
    PillowImage.new("RGB", (40, 30), (200, 30, 60)).save(base.here / "red.png")
    assert base.run("python", "-c", "import torch").returncode == 1
    found = base.run("mbv2kit", "infer", "red.png", "checkpoint=model", "output=found")
    assert (found.returncode, found.stderr) == (0, "")
    assert len((base.here / "found" / "predictions.jsonl").read_text().splitlines()) == 1
    assert len(list((base.here / "found" / "images").iterdir())) == 1
    assert base.run("mbv2kit", "infer", "--help").returncode == 0

    voc = ["dataset=voc", "dataset.root=.", "output=cells"]
    arguments = {
        "push": ["repository=me/mine"],
        "convert": ["source=a", "output=b"],
        "cut-objects": voc,
        "make-shards": voc,
    }
    for command in set(COMMANDS) - {"infer"}:
        extra = {"push": "weights", "serve": "serve", "make-shards": "shards"}.get(command, "train")
        done = base.run("mbv2kit", command, *arguments.get(command, []))
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(
            rf"error: mbv2kit {command} needs \w+ and more: pip install 'mbv2kit\[{extra}\]'\n", done.stderr
        )
    done = base.run("mbv2kit", "infer", "red.png", "checkpoint=model", "runtime=torch")
    assert done.returncode == 2
    assert "Without an exported file a model needs torch and more: pip install 'mbv2kit[train]'" in done.stderr
