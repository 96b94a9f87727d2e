"""Keys of trainer, schedule, optimizer and loader do what they say, through the command: the least of networks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mbv2kit.commands.train import job
from mbv2kit.data.datamodule import EvaluationBatch, TrainingBatch
from mbv2kit.data.training_set import TrainingSet
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.structures import Sample
from mbv2kit.training.task import VisionTask
from tests.cli.runs import changed, checkpoint, rows, state

Run = Callable[..., int]
Quick = Callable[..., RunFolder]
Steps = list[tuple[VisionTask, list[str]]]

# Schedules: metrics.csv has the rate of the last step of each epoch, of two steps each.

RATES = [
    ("scheduler=constant", [1, 1, 1, 1]),
    ("scheduler=constant scheduler.warmup_epochs=2", [0.5, 1, 1, 1]),
    ("scheduler=cosine scheduler.warmup_epochs=0", [0.961940, 0.691342, 0.308658, 0.038060]),
    (
        "scheduler=cosine scheduler.warmup_epochs=0 scheduler.final_fraction=0.5",
        [0.980970, 0.845671, 0.654329, 0.519030],
    ),
    ("scheduler=exponential scheduler.gamma=0.5", [1, 0.5, 0.25, 0.125]),
    ("scheduler=exponential scheduler.gamma=0.5 scheduler.decay_epochs=2", [1, 1, 0.5, 0.5]),
    ("scheduler=exponential scheduler.gamma=0.25 scheduler.staircase=false", [0.5, 0.125, 0.03125, 0.0078125]),
    ("scheduler=poly scheduler.power=2", [0.765625, 0.390625, 0.140625, 0.015625]),
    ("scheduler=steps scheduler.milestones=[1,3] scheduler.gamma=0.5", [1, 0.5, 0.5, 0.25]),
]


@pytest.mark.shows(
    "scheduler.name",
    "scheduler.warmup_epochs",
    "scheduler.final_fraction",
    "scheduler.gamma",
    "scheduler.decay_epochs",
    "scheduler.staircase",
    "scheduler.power",
    "scheduler.milestones",
)
@pytest.mark.parametrize(("keys", "factors"), RATES, ids=[keys for keys, _ in RATES])
def test_a_schedule_gives_these_rates(quick: Quick, keys: str, factors: list[float]) -> None:
    run = quick(*keys.split(), "trainer.max_epochs=4", "optimizer.lr=0.01", "trainer.limit_val_batches=0")
    assert [float(row["lr"]) for row in rows(run)] == pytest.approx([0.01 * factor for factor in factors], rel=1e-4)


# Optimizers: what a run trains with is in its checkpoint; test_optimizers.py has what it computes.

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {"lr": 0.5, "weight_decay": 0.25, "betas": [0.5, 0.75], "eps": 0.125}),
    ("rmsprop", {"lr": 0.5, "weight_decay": 0.25, "decay": 0.5, "momentum": 0.125, "eps": 0.75}),
    ("sgd", {"lr": 0.5, "weight_decay": 0.25, "momentum": 0.125, "nesterov": False}),
]


@pytest.mark.shows(
    "optimizer.name",
    "optimizer.decay_norm_bias_depthwise",
    *sorted({f"optimizer.{key}" for _, options in OPTIMIZERS for key in options}),
)
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[name for name, _ in OPTIMIZERS])
def test_an_optimizer_has_these_options(quick: Quick, name: str, options: dict[str, Any]) -> None:
    keys = [f"optimizer.{key}={str(value).lower()}" for key, value in options.items()]
    more = ("scheduler=constant", "optimizer.decay_norm_bias_depthwise=true", "trainer.limit_val_batches=0")
    (group,) = checkpoint(quick(f"optimizer={name}", *keys, *more))["optimizer_states"][0]["param_groups"]
    assert {key: list(group[key]) if key == "betas" else group[key] for key in options} == options


# The trainer.


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The task and the names of the images of each step of training."""
    found: Steps = []
    original = VisionTask.training_step

    def training_step(self: VisionTask, batch: TrainingBatch, batch_idx: int) -> Any:
        found.append((self, batch.image_ids))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(VisionTask, "training_step", training_step)
    return found


@pytest.mark.shows("trainer.accumulate")
def test_a_step_takes_several_batches(quick: Quick, passes: list[int]) -> None:
    keys = ("loader.workers=0", "trainer.max_epochs=1")
    large = quick(*keys, "loader.batch_size=4", folder="large")
    together, passes[:] = passes[:], []
    small = quick(*keys, "loader.batch_size=2", "trainer.accumulate=2", folder="small")
    assert (together, passes) == ([4, 4], [2, 2, 2, 2])
    # The same steps of the same images, but for the statistics of batch norms.
    assert rows(small)[0]["step"] == rows(large)[0]["step"] == "2"
    assert checkpoint(small)["DataModule"]["batch_size"] == checkpoint(large)["DataModule"]["batch_size"] == 4
    assert float(rows(small)[0]["train/loss"]) == pytest.approx(float(rows(large)[0]["train/loss"]), rel=0.05)


def test_more_batches_than_images_are_refused(run: Run, tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", job, *tiny, "trainer.accumulate=9", "run_dir=run") == 2
    told = capsys.readouterr().err.replace("\n", " ")
    assert "error: trainer.accumulate=9 batches of loader.batch_size=4 are more than the 8 images of the" in told


@pytest.mark.shows("trainer.max_epochs", "trainer.limit_train_batches", "trainer.val_every_n_epochs")
def test_keys_that_change_the_number_of_steps_and_validations(quick: Quick) -> None:
    run = quick("trainer.max_epochs=3", "trainer.limit_train_batches=1", "trainer.val_every_n_epochs=2")
    assert [row["step"] for row in rows(run)] == ["1", "2", "3"]
    assert [bool(row["val/top1"]) for row in rows(run)] == [False, True, False]


@pytest.mark.shows("trainer.gradient_clip_norm", "trainer.precision", "seed")
def test_keys_that_change_what_a_step_does(quick: Quick) -> None:
    plain, start = state(quick(folder="plain")), state(quick("optimizer.lr=0", folder="start"))
    for number, key in enumerate(("trainer.gradient_clip_norm=1e-12", "trainer.precision=bf16-mixed", "seed=1")):
        assert changed(plain, state(quick(key, folder=f"run{number}"))), key
    # With AdamW, gradients of next to nothing move next to nothing but by decay.
    clipped = state(RunFolder(Path("run0")))
    name = "heads.classification.linear.bias"
    assert (clipped[name] - start[name]).abs().max() < 0.01 * (plain[name] - start[name]).abs().max()


@pytest.mark.shows("trainer.channels_last")
def test_memory_layout(quick: Quick, steps: Steps) -> None:
    for value, layout in (("true", torch.channels_last), ("false", torch.contiguous_format)):
        quick(f"trainer.channels_last={value}", folder=value)
        assert steps.pop()[0].model.get_parameter("backbone.layers.little.0.weight").is_contiguous(memory_format=layout)


@pytest.mark.shows("trainer.accelerator")
def test_what_computes(
    quick: Quick, run: Run, tiny: list[str], steps: Steps, capfd: pytest.CaptureFixture[str]
) -> None:
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    for name, device in (("auto", best), ("cpu", torch.device("cpu"))):
        quick(f"trainer.accelerator={name}", folder=name)
        assert device is not None
        assert steps.pop()[0].device.type == device.type
    missing = [name for name, kind in (("gpu", "cuda"), ("mps", "mps")) if best is not None and best.type != kind]
    for name in missing:
        assert run("train", job, *tiny, f"trainer.accelerator={name}") == 2
        assert f"error: This machine cannot train with trainer.accelerator={name}" in capfd.readouterr().err


@pytest.mark.shows("trainer.limit_val_batches")
def test_a_part_of_the_validation_split(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[int] = []
    original = VisionTask.validation_step

    def validation_step(self: VisionTask, batch: EvaluationBatch, batch_idx: int) -> None:
        images.append(len(batch.samples))
        original(self, batch, batch_idx)

    monkeypatch.setattr(VisionTask, "validation_step", validation_step)
    keys = ("loader.batch_size=2", "trainer.max_epochs=1")
    for value, wanted in (("null", [2, 2]), ("1", [2]), ("0", [])):
        row = rows(quick(*keys, f"trainer.limit_val_batches={value}", folder=f"run_{value}"))[0]
        assert images == wanted
        assert bool(row.get("val/top1")) == bool(wanted)
        images.clear()


@pytest.mark.shows("trainer.progress_bar")
def test_a_progress_bar_is_there_where_it_is_wanted(
    quick: Quick, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    for value in ("true", "false"):
        quick(f"trainer.progress_bar={value}", folder=value)
        assert (steps.pop()[0].trainer.progress_bar_callback is not None) == (value == "true")


@pytest.mark.shows("trainer.devices")
@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("trainer.devices=2", "trainer.devices must be a whole number that is 1"),
        (
            "trainer.early_stopping_patience=3 trainer.limit_val_batches=0",
            "trainer.early_stopping_patience=3 needs validations",
        ),
        (
            "trainer.early_stopping_patience=3 trainer.val_every_n_epochs=9",
            "trainer.early_stopping_patience=3 needs validations",
        ),
        ("qat.ranges_frozen_after=2", "qat.ranges_frozen_after=2 does nothing without qat.enabled=true"),
    ],
)
def test_what_a_trainer_cannot_do_is_a_sentence(
    run: Run, tiny: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], keys: str, sentence: str
) -> None:
    assert run("train", job, *tiny, *keys.split(), "run_dir=OUT") == 2
    assert f"error: {sentence}" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_the_processor_lacks_is_refused_not_replaced(
    run: Run, tiny: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("train", job, *tiny, "trainer.precision=16-mixed", "run_dir=OUT") == 2
    error = capfd.readouterr().err
    assert error.startswith("error: This machine cannot train with trainer.accelerator=cpu, trainer.devices=1, ")
    assert "its processor has no such precision; set trainer.precision=bf16-mixed" in error
    assert list(tmp_path.iterdir()) == []


# The loader.


@pytest.mark.shows("loader.batch_size", "loader.workers")
def test_who_reads_how_many_images_at_a_time(quick: Quick, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingSet, "__getitem__", with_process(TrainingSet.__getitem__))
    for workers, size in ((0, 2), (1, 4)):
        quick(f"loader.workers={workers}", f"loader.batch_size={size}", "trainer.max_epochs=1", folder=f"w{workers}")
        assert [len(names) for _, names in steps] == [size] * (8 // size)
        assert ({name for _, names in steps for name in names} == {str(os.getpid())}) == (workers == 0)
        steps.clear()


def with_process(original: Callable[[TrainingSet, tuple[int, int]], Sample]) -> Callable[..., Sample]:
    """Calls an image by the process that read it."""

    def getitem(self: TrainingSet, key: tuple[int, int]) -> Sample:
        sample = original(self, key)
        sample.image_id = str(os.getpid())
        return sample

    return getitem
