"""A value reaches its end through few parts of the package, and never comes back to a part that it has left."""

import functools
import traceback
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pytest

import mbv2kit
from mbv2kit.backbones.mobilenet_v2 import MobileNetV2
from mbv2kit.data.sources import folder
from mbv2kit.data.sources.folder import Folder
from mbv2kit.heads.classifier import Classifier
from mbv2kit.imaging import preprocess
from mbv2kit.inference import predictor

pytestmark = pytest.mark.usefixtures("clean_process")

PACKAGE = Path(mbv2kit.__file__).parent


class Journeys:
    """The files of the package on the stack at the first call of each function that is watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._files: dict[str, list[Path]] = {}

    def watch(self, value: str, owner: object, name: str) -> None:
        function: Callable[..., object] = getattr(owner, name)

        @functools.wraps(function)
        def watched(*args: object, **named: object) -> object:
            paths = [Path(frame.filename) for frame in traceback.extract_stack()]
            files = [path.relative_to(PACKAGE) for path in paths if PACKAGE in path.parents]
            self._files.setdefault(value, [*files, Path(function.__code__.co_filename).relative_to(PACKAGE)])
            return function(*args, **named)

        self._monkeypatch.setattr(owner, name, watched)

    def parts(self) -> dict[str, list[str]]:
        return {value: self._parts(files) for value, files in self._files.items()}

    @staticmethod
    def _parts(files: list[Path]) -> list[str]:
        parts = [path.parts[0].removesuffix(".py") for path in files]
        # The registry only calls the constructor that its caller named.
        return [part for part, _ in groupby(part for part in parts if part != "registry")]


@pytest.fixture
def journeys(monkeypatch: pytest.MonkeyPatch) -> Journeys:
    return Journeys(monkeypatch)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Sixteen images of two classes."""
    pixels = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "animals" / split / name).mkdir(parents=True)
            for k in range(4):
                image = pixels.integers(0, 255, (48, 48, 3), np.uint8)
                cv2.imwrite(str(tmp_path / "animals" / split / name / f"{k}.png"), image)
    return tmp_path / "animals"


def test_a_value_takes_a_short_way_that_never_turns_back(journeys: Journeys, animals: Path, tmp_path: Path) -> None:
    journeys.watch("dataset.root", Folder, "__init__")
    journeys.watch("backbone.width", MobileNetV2, "__init__")
    journeys.watch("training image, decoded", folder, "decode")
    journeys.watch("training image, in the network", MobileNetV2, "forward")
    journeys.watch("training image, its loss", Classifier, "loss")
    run = mbv2kit.train(
        task="classification",
        dataset={"name": "folder", "root": animals},
        run_dir=tmp_path / "run",
        input={"size": [32, 32]},
        backbone={"width": 0.35},
        loader={"batch_size": 4, "workers": 0},
        trainer={"max_epochs": 1, "progress_bar": False},
    )
    journeys.watch("file, decoded", preprocess, "decode_resized")
    journeys.watch("file, its prediction", predictor, "postprocess")
    mbv2kit.load(run.path)(animals / "val" / "cat" / "0.png")

    assert journeys.parts() == {
        "dataset.root": ["api", "training", "data"],
        "backbone.width": ["api", "training", "models", "backbones"],
        "training image, decoded": ["api", "training", "data", "imaging"],
        "training image, in the network": ["api", "training", "models", "backbones"],
        "training image, its loss": ["api", "training", "heads"],
        "file, decoded": ["inference", "imaging"],
        "file, its prediction": ["inference", "imaging"],
    }
