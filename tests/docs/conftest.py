"""A folder such as the pages talk about: a few photos, a small data set, a run and a second model."""

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mbv2kit

Run = Callable[..., int]

# Overrides that make a training one of a few seconds.
TINY = (
    "input.size=[64,64] backbone.width=0.35 dataset.size=64 dataset.train_count=8 dataset.val_count=4 "
    "loader.batch_size=4 loader.workers=0 trainer.max_epochs=1 trainer.progress_bar=false"
)
# The page "Start" trains it; other pages use it.
FIRST_RUN = "mbv2kit train task=detection run_dir=outputs/first trainer.max_epochs=2"

_OBJECT = (
    "<object><name>cell</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
)


def run_command(line: str, *more: str) -> int:
    """Runs a command line ``mbv2kit NAME ...`` in this process, and returns its exit code."""
    _, name, *arguments = line.split()
    module = import_module(f"mbv2kit.commands.{name.replace('-', '_')}")
    with pytest.raises(SystemExit) as exit_:
        module.main([*(argument.strip("'") for argument in arguments), *more])
    code = exit_.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, made once; tests get copies of it."""
    folder = tmp_path_factory.mktemp("docs")
    pixels = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in ("cat", "dog"):
        Image.fromarray(pixels.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(folder / "photos" / f"{name}.jpg")
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / "cells" / part).mkdir(parents=True)
    # Batch normalization trains on two images at least.
    for split, names in {"train": ("a", "b"), "val": ("c",)}.items():
        (folder / "cells" / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            (folder / "cells" / "Annotations" / f"{name}.xml").write_text(f"<annotation>{_OBJECT}</annotation>")
            shutil.copy(folder / "photos" / "cat.jpg", folder / "cells" / "JPEGImages" / f"{name}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_command(FIRST_RUN, *TINY.split()) == 0
        classifier = mbv2kit.create_model(
            "mobilenet_v2", "classifier", ["flat", "round"], width=0.35, input_size=(32, 32)
        )
        classifier.save("outputs/kinds/model")
    return folder


@pytest.fixture
def workplace(template: Path, tmp_path: Path, clean_process: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, as the current one."""
    folder = tmp_path / "workplace"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder
