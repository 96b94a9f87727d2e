"""A run that goes on with another value of a key is exact, says what changed, or is refused and stays as it was."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from mbv2kit.backbones import BACKBONES
from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.cli.overrides import flatten
from mbv2kit.errors import UserError
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.training.parts import training_parts
from mbv2kit.training.run import train
from tests.little import Little
from tests.training.test_resume import TIMES

Compose = Callable[..., DictConfig]
GoOn = Callable[..., RunFolder]

LONGER = "trainer.max_epochs=3"
# Nothing of the run depends on them.
EXACT = {"loader.workers": 1, "trainer.progress_bar": True}
# They decide what is measured or when a run ends; the weights are those of a run without the change.
SAME_WEIGHTS = {
    "trainer.early_stopping_patience": 9,
    "trainer.limit_val_batches": 1,
    "trainer.val_every_n_epochs": 3,
    "dataset.val_count": 5,
    "dataset.val_split": "train",
}
OTHER_WEIGHTS = {
    "augment.brightness": 0.5,
    "augment.contrast": 0.5,
    "augment.horizontal_flip": 1.0,
    "augment.hue": 0.25,
    "augment.ratio": [1.0, 2.0],
    "augment.saturation": 0.5,
    "augment.scale": [0.5, 0.75],
    "augment.size": [64, 64],
    "augment.vertical_flip": 1.0,
    "dataset.seed": 5,
    "dataset.size": 96,
    "dataset.train_count": 12,
    "dataset.train_split": "val",
    "loader.batch_size": 2,
    "optimizer.betas": [0.5, 0.5],
    "optimizer.eps": 0.01,
    "optimizer.lr": 0.5,
    "optimizer.weight_decay": 0.5,
    "scheduler.warmup_epochs": 3.0,
    "seed": 7,
    "trainer.accumulate": 2,
    "trainer.gradient_clip_norm": 0.001,
    "trainer.limit_train_batches": 1,
    "trainer.precision": "bf16-mixed",
}
# Their other values cannot be used here.
REFUSED_VALUES = {
    "dataset.cache": "ram",
    "dataset.root": "elsewhere",
    "qat.norms_frozen_after": 2,
    "qat.ranges_frozen_after": 2,
    "trainer.devices": 2,
    "trainer.precision": "16-mixed",
    "trainer.max_epochs": 1,
    "loader.ratio": "x",
    "loader.mixed": False,
}
# How they round depends on the machine.
ROUNDING = {"trainer.accelerator": "auto", "trainer.channels_last": False}


@pytest.fixture
def little(add_part: Callable[..., None], monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Makes the least of networks a choice, and leaves out what follows the last epoch."""
    add_part(BACKBONES, "little", Little)
    register_parts(root / "conf", training_parts())
    monkeypatch.setattr("mbv2kit.training.run.finish", lambda *_: None)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the first test that needs it leaves for the others: the run to resume, that without a stop, and a config."""
    return {"folder": tmp_path_factory.mktemp("bases")}


@pytest.fixture
def base(little: None, bases: dict[str, Any], root: Path) -> dict[str, Any]:
    if "config" not in bases:
        for epochs in (2, 3):
            keys = (
                "backbone=little input.size=[32,32] dataset.size=64 dataset.train_count=8 dataset.val_count=4 "
                "loader.batch_size=4 loader.workers=0 scheduler=constant trainer.progress_bar=false export=false "
                f"trainer.max_epochs={epochs}"
            )
            path = bases["folder"] / str(epochs)
            train(compose_config(root / "conf", "train", [*keys.split(), f"run_dir='{path}'"]))
            bases[f"{epochs}"] = RunFolder(path)
        bases["config"] = compose_config(
            root / "conf", "train", ["resume=RUN", "backbone=little", "scheduler=constant"]
        )
    return bases


@pytest.fixture
def go_on(base: dict[str, Any], tmp_path: Path) -> GoOn:
    """Resumes a copy of the run of two epochs with some changes."""

    def call(*overrides: str) -> RunFolder:
        shutil.copytree(base["2"].path, tmp_path / "run")
        config = base["config"].copy()
        config.resume = str(tmp_path / "run")
        return train(config, overrides)

    return call


def as_override(key: str, value: Any) -> str:
    return f"{key}={'null' if value is None else str(value).lower()}"


def tensors(run: RunFolder) -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def equal(run: RunFolder, other: RunFolder) -> bool:
    ours, theirs = tensors(run), tensors(other)
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def rows(run: RunFolder) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


@pytest.mark.parametrize("key", EXACT)
def test_what_changes_no_result_is_exact(go_on: GoOn, base: dict[str, Any], key: str) -> None:
    run = go_on(LONGER, as_override(key, EXACT[key]))
    assert equal(run, base["3"])
    assert rows(run) == rows(base["3"])
    assert f"the run goes on with {as_override(key, EXACT[key])} (was " in run.log.read_text()
    assert "; the results stay the same" in run.log.read_text()


STATED = {**SAME_WEIGHTS, **OTHER_WEIGHTS, **ROUNDING, "trainer.max_epochs": 3}


@pytest.mark.parametrize("key", STATED)
def test_what_changes_results_is_stated(go_on: GoOn, base: dict[str, Any], key: str) -> None:
    run = go_on(LONGER, as_override(key, STATED[key]))
    (line,) = [line for line in run.log.read_text().splitlines() if "the run goes on with" in line]
    assert f" {key}=" in line
    assert line.endswith("; what follows may differ from a run without the change")
    assert OmegaConf.select(OmegaConf.load(run.config), key) == STATED[key]
    if key in ROUNDING:
        for name, tensor in tensors(run).items():
            torch.testing.assert_close(tensor, tensors(base["3"])[name], rtol=1e-3, atol=1e-4)
    else:
        assert equal(run, base["3"]) == (key not in OTHER_WEIGHTS)


def others(config: DictConfig) -> list[str]:
    """Returns every key, and every group, that no test above goes on with."""
    return [key for key, value in flatten(config).items() if key not in {*EXACT, *STATED, *REFUSED_VALUES, "resume"}]


def test_every_other_change_is_refused_and_leaves_the_run_as_it_is(
    go_on: GoOn, base: dict[str, Any], tmp_path: Path
) -> None:
    refused = {key: "x" for key in others(base["config"]) if key != "plugins"}
    for key, value in (refused | REFUSED_VALUES).items():
        with pytest.raises(UserError) as error:
            go_on(as_override(key, value))
        sentence = str(error.value)
        assert key in sentence or "makes its own images" in sentence or "is in epoch 2 already" in sentence
        assert key in REFUSED_VALUES or "makes another model" in sentence or "cannot be chosen anew" in sentence
        before, after = base["2"].path, tmp_path / "run"
        assert {path.name: path.read_bytes() for path in before.iterdir() if path.is_file()} == {
            path.name: path.read_bytes() for path in after.iterdir() if path.is_file() and path.name != ".owner"
        }
        shutil.rmtree(after)


def test_what_repeats_the_run_is_no_change(go_on: GoOn, base: dict[str, Any]) -> None:
    config = flatten(base["2"].read_config())
    same = [as_override(key, config[key]) for key in ("backbone.name", "ema.decay", "finetune.backbone_lr", "seed")]
    run = go_on(LONGER, "backbone=little", "optimizer=adamw", "task=classification", "scheduler=constant", *same)
    assert equal(run, base["3"])
    assert "trainer.max_epochs=3 (was 2); what follows" in run.log.read_text()
