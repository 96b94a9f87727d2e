"""What a training run leaves behind, and how it takes what goes wrong on the way."""

import csv
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.evaluation import Scores
from mbv2kit.evaluation.evaluators.accuracy import Accuracy
from mbv2kit.exporting.check import check
from mbv2kit.exporting.files import open_for_check
from mbv2kit.heads.classifier import Classifier
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.training.run import train
from mbv2kit.training.task import VisionTask
from tests.exporting.models import noise

Compose = Callable[..., DictConfig]
Trained = Callable[[str], RunFolder]

METRICS = {
    "classification": ["top1", "top5"],
    "detection": ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"],
    "segmentation": ["mIoU", "pixel_accuracy"],
}
PLOTS = {
    "classification": {"confusion_matrix.png", "learning_curves.png"},
    "detection": {"precision_recall.png", "learning_curves.png"},
    "segmentation": {"confusion_matrix.png", "iou_per_class.png", "learning_curves.png"},
}


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


# The run folder.


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_a_run_leaves_these_files_and_no_others(trained: Trained, task: str) -> None:
    run = trained(task)
    files = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith(("tensorboard/", "plots/", "predictions/"))} == {
        "config.yaml",
        "metrics.csv",
        "metrics.json",
        "model/model.json",
        "model/model.safetensors",
        "model/model.onnx",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "train.log",
    }
    assert {path.name for path in run.plots.iterdir()} == PLOTS[task]
    seen = {f"{i:05d}_val_{i:05d}.png" for i in range(6)}
    assert {path.name for path in run.predictions.iterdir()} == {*seen, "overview.png"}
    for image in (*run.plots.iterdir(), *run.predictions.iterdir()):
        assert cv2.imread(str(image)) is not None


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_the_onnx_file_of_a_run_answers_as_its_model_does(trained: Trained, task: str) -> None:
    run = trained(task)
    assert "ms an image, PyTorch" in run.log.read_text()
    (export,) = ModelFolder(run.model).read_exports()
    assert (export.file, export.precision, export.batch) == ("model.onnx", "fp32", None)
    model = VisionModel.load(run.model)
    images = noise(3, export.size)
    assert check(model, open_for_check(model, run.model, export), export, images).agrees


def test_a_network_that_onnx_cannot_say_costs_no_run(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch.onnx.OnnxExporterError("There is no such operator.\nMore.")

    monkeypatch.setattr("torch.onnx.export", refuse)
    train(tiny(tmp_path / "run", "export=true", "trainer.max_epochs=1"))
    run = RunFolder(tmp_path / "run")
    assert run.finished
    assert "could not be written as ONNX (There is no such operator.); PyTorch runs it" in run.log.read_text()
    assert ModelFolder(run.model).read_exports() == ()


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_figures_are_complete(trained: Trained, task: str) -> None:
    run = trained(task)
    final = json.loads(run.metrics.read_text())
    keys = ["task", "dataset", "split", "images", "seconds", "tta"]
    keys += ["runtime", "precision", "file", "model", "metrics", "per_class"]
    # Scenes this small hold no large objects, which the notes of a detector say.
    assert list(final) == (keys if task != "detection" else [*keys, "notes"])
    model = json.loads((run.model / "model.json").read_text())
    assert final["tta"] == "none"
    assert final["model"] == {
        "backbone": model["backbone"],
        "head": model["heads"][task],
        "classes": len(model["class_names"][task]),
        "input": model["input"],
    }
    assert (final["task"], final["dataset"], final["split"], final["images"]) == (task, "shapes", "val", 6)
    assert list(final["metrics"]) == METRICS[task]
    assert all(value is None or 0 <= value <= 1 for value in final["metrics"].values())
    assert len(final["per_class"]) == (6 if task == "segmentation" else 5)

    epochs = rows(run.path)
    assert [(row["epoch"], row["step"], row["skipped_steps"]) for row in epochs] == [("0", "4", "0"), ("1", "8", "0")]
    for row in epochs:
        terms = [float(value) for key, value in row.items() if key.startswith("train/") and key != "train/loss"]
        assert float(row["train/loss"]) == pytest.approx(sum(terms), rel=1e-4)
        assert {key for key in row if key.startswith("val/")} == {f"val/{name}" for name in METRICS[task]}
        assert 0 < float(row["seconds"]) < 1000
        # Two steps of four images, in less than the time of the epoch with its validation.
        assert float(row["images_per_second"]) > 8 / float(row["seconds"])
        assert 0 < float(row["waiting"]) < 1
    # Those of the last step of each epoch: the end of the warm-up, and three quarters of the cosine.
    rates = [float(row["lr"]) for row in epochs]
    assert rates == pytest.approx([0.001, 0.001 * (1 + math.cos(0.75 * math.pi)) / 2], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", METRICS)
def test_the_model_is_the_average_of_the_best_epoch(trained: Trained, task: str) -> None:
    run = trained(task)
    monitor = {"classification": "top1", "detection": "AP", "segmentation": "mIoU"}[task]
    figures = [float(row[f"val/{monitor}"]) for row in rows(run.path)]
    best = checkpoint(run.path, "best")
    assert best["epoch"] == figures.index(max(figures))
    assert checkpoint(run.path, "last")["epoch"] == 1
    model = VisionModel.load(run.model)
    assert model.spec.origin["epoch"] == best["epoch"] + 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, best["state_dict"][f"average.model.{name}"])
    assert json.loads(run.metrics.read_text())["metrics"][monitor] == pytest.approx(max(figures), abs=1e-6)


@pytest.mark.slow
def test_the_configuration_is_whole_and_the_log_tells_the_story(trained: Trained, tiny: Compose) -> None:
    run = trained("classification")
    assert OmegaConf.load(run.config) == OmegaConf.create(
        OmegaConf.to_container(tiny(run.path, "export=true"), resolve=True)
    )
    log = run.log.read_text()
    assert "classification on shapes (made on the fly): 17 images, 5 classes, mobilenet_v2 + classifier" in log
    story = ["epoch 1/2", "epoch 2/2", "6 images in", "the model of epoch"]
    assert sorted(map(log.index, story)) == [log.index(part) for part in story]


# Epochs.


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the validations of a run report these top1 figures, one after the other."""

    def start(*figures: float) -> None:
        rest = iter(figures)
        monkeypatch.setattr(Accuracy, "compute", lambda self: Scores({"top1": next(rest)}, {}))
        monkeypatch.setattr("mbv2kit.training.finish.evaluate_model", lambda *args, **options: None)

    return start


@pytest.mark.slow
def test_best_is_of_the_best_validation_however_seldom_there_is_one(
    tiny: Compose, tmp_path: Path, claim: Callable[..., None]
) -> None:
    claim(0.25, 0.75, 0.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="lightning")
        warnings.filterwarnings("error", ".*ModelCheckpoint.*")
        train(tiny(tmp_path / "run", "trainer.max_epochs=7", "trainer.val_every_n_epochs=2", "loader.batch_size=17"))
    assert [row["val/top1"] for row in rows(tmp_path / "run")] == ["", "0.25", "", "0.75", "", "0.5", ""]
    assert checkpoint(tmp_path / "run", "best")["epoch"] == 3
    assert checkpoint(tmp_path / "run", "last")["epoch"] == 6
    assert VisionModel.load(tmp_path / "run" / "model").spec.origin["epoch"] == 4


@pytest.mark.slow
def test_training_stops_early_where_nothing_gets_better(
    tiny: Compose, tmp_path: Path, claim: Callable[..., None]
) -> None:
    claim(0.25, 0.75, 0.5, 0.75, 0.9)
    overrides = ("trainer.max_epochs=9", "trainer.early_stopping_patience=2", "loader.batch_size=17")
    train(tiny(tmp_path / "run", *overrides))
    assert [row["val/top1"] for row in rows(tmp_path / "run")] == ["0.25", "0.75", "0.5", "0.75"]
    assert checkpoint(tmp_path / "run", "best")["epoch"] == 1


@pytest.mark.slow
def test_without_any_validation_the_last_epoch_is_the_model(tiny: Compose, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    keys = ("trainer.val_every_n_epochs=5", "trainer.limit_train_batches=1", "ema.decay=null")
    assert train(tiny(run.path, *keys)) == run
    assert not (run.checkpoints / "best.ckpt").exists()
    model, last = VisionModel.load(run.model), checkpoint(run.path, "last")
    assert (model.spec.origin["epoch"], last["global_step"]) == (2, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, last["state_dict"][f"model.{name}"])
    assert run.finished


# Steps that are not finite.


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> list[int]:
    """Makes the classifier's loss NaN at some steps, and returns the list of the steps that were taken."""
    taken: list[int] = []
    original = Classifier.loss

    def loss(self: Classifier, raw: Any, targets: Any) -> dict[str, Tensor]:
        taken.append(len(taken))
        terms = original(self, raw, targets)
        return {name: value * float("nan") for name, value in terms.items()} if taken[-1] in steps else terms

    monkeypatch.setattr(Classifier, "loss", loss)
    return taken


@pytest.mark.slow
def test_bad_steps_are_skipped_counted_and_told(tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = poison(monkeypatch, {1, 2, 5})
    updates: list[int] = []
    original = VisionTask.on_train_batch_start

    def on_train_batch_start(self: VisionTask, batch: Any, batch_idx: int) -> None:
        assert self.average is not None
        updates.append(int(self.average.updates))
        original(self, batch, batch_idx)

    monkeypatch.setattr(VisionTask, "on_train_batch_start", on_train_batch_start)
    run = RunFolder(tmp_path / "run")
    train(tiny(run.path))
    assert len(taken) == 8
    assert updates == [0, 1, 1, 1, 2, 3, 3, 4]
    assert [row["skipped_steps"] for row in rows(run.path)] == ["2", "3"]
    assert all(0 < float(row["train/loss"]) < 100 for row in rows(run.path))
    log = run.log.read_text()
    assert log.count("the step is skipped (images: train_") == 3
    assert "WARNING step 1: loss nan" in log
    assert "3 steps were skipped because they were not finite" in log
    assert all(tensor.isfinite().all() for tensor in checkpoint(run.path, "last")["state_dict"].values())


@pytest.mark.slow
def test_three_bad_steps_in_a_row_end_the_run_and_the_last_checkpoint_is_kept(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, set(range(5, 100)))
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"stopped at step 7: .* third step in a row .* on the images train_0"):
        train(tiny(run.path))
    assert len(rows(run.path)) == 1
    assert not run.finished
    kept = checkpoint(run.path, "last")
    assert kept["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


# What is wrong from the start leaves nothing behind.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loader.batch_size=1"], "cannot train on one image at a time: loader.batch_size is 1"),
        (["dataset.train_count=1"], "the training split has 1 images"),
        (["backbone.width=-1"], "width"),
        (["backbone.output_stride=7"], "output_stride"),
        (["loader.workers=-1"], "loader.workers must be a whole number from 0 to 512, or auto, got -1"),
        (["optimizer.lr=-0.1"], "optimizer.lr must be a number from 0 to 1,000, got -0.1"),
        (["scheduler.warmup_epochs=3"], "schedule 'cosine': warmup_epochs must be at most the 2 epochs of the run"),
        (["dataset.val_split=test"], "no split 'test'; splits found: train, val"),
        (["head=ssdlite"], "head 'ssdlite' does detection, but task is classification"),
        (["trainer.accelerator=gpux"], "trainer.accelerator must be one of auto, cpu, gpu, mps, got 'gpux'"),
        (["trainer.devices=0"], "trainer.devices must be .* 1: training on several devices is not supported, got 0"),
        (["trainer.precision=half"], "trainer.precision must be one of 32-true, bf16-mixed, 16-mixed, got 'half'"),
        (["trainer.max_epochs=0"], "trainer.max_epochs must be"),
    ],
)
def test_a_slip_is_told_and_leaves_no_folder(tiny: Compose, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny(tmp_path / "run", *overrides))
    assert list(tmp_path.iterdir()) == []
