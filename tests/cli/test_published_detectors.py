"""A detector as the Object Detection API publishes it, through every command."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image as PillowImage

from mbv2kit.commands.convert import job as convert
from mbv2kit.commands.export import job as export
from mbv2kit.commands.train import job as train
from mbv2kit.data.sources import create_source
from mbv2kit.evaluation.run import evaluate
from mbv2kit.inference.run import infer
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.frozen_graph import read
from tests.weights.graphdef_writer import write_detector
from tests.weights.test_frozen_graph import random_detector

Tool = Callable[..., int]
SHAPES = ("dataset=shapes", "dataset.size=96", "dataset.val_count=4", "loader.workers=0")


@pytest.fixture
def detector(tmp_path: Path) -> VisionModel:
    """Writes ``detector.pb`` of three classes, and ``labels.txt`` with two names of shapes and one of its own."""
    names = create_source("shapes", task="detection", split="val").class_names
    model = random_detector("mobilenet_v2", "ssdlite", 3, scores="sigmoid", anchors="uniform")
    (tmp_path / "detector.pb").write_bytes(write_detector(model, 96))
    (tmp_path / "labels.txt").write_text(f"???\n{names[1]}\nunicorn\n{names[0].upper()}\n")
    return model


def metrics(folder: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(folder, "metrics.json").read_text())
    return found


@pytest.mark.usefixtures("detector")
def test_it_is_scored_on_the_classes_that_it_knows(run: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    names = create_source("shapes", task="detection", split="val").class_names
    keys = ("weights=detector.pb", "class_names=labels.txt", *SHAPES)
    assert run("eval", evaluate, *keys, "run_dir=found") == 0
    left = len(names) - 2
    said = capsys.readouterr().out
    assert f"The model does not know {left} class" in said
    notes = metrics("found")["notes"]
    assert isinstance(notes, list)
    assert "their objects are left out" in notes[0]
    assert run("eval", evaluate, "weights=detector.pb", *SHAPES) == 2
    assert "The data set has classes that the model does not know" in capsys.readouterr().err


@pytest.mark.usefixtures("detector")
def test_exported_files_take_the_exact_pixels_or_bytes(run: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", convert, "source=detector.pb", "class_names=labels.txt", "output=model") == 0
    keys = ("weights=model", "check_pictures=4", *SHAPES[:3])
    assert run("export", export, *keys) == 0
    assert run("export", export, *keys, "precision=int8", "max_loss=1", "sensitive_layers=0") == 0
    capsys.readouterr()
    description = json.loads(Path("model/model.json").read_text())
    inputs = {entry["precision"]: entry.get("input", "uint8") for entry in description["exports"]}
    assert inputs == {"fp32": "float32", "int8": "uint8"}
    found = {}
    for name, key in (("torch", "weights=model"), ("onnx", "weights=model/model.onnx")):
        assert run("eval", evaluate, key, *SHAPES, f"run_dir={name}") == 0
        found[name] = metrics(name)["metrics"]
    assert found["onnx"] == pytest.approx(found["torch"], abs=1e-6)
    assert run("eval", evaluate, "weights=model/model_int8.onnx", *SHAPES, "run_dir=int8") == 0


def test_it_predicts_by_its_own_names(run: Tool, detector: VisionModel) -> None:
    PillowImage.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save("a.png")

    def see(config: DictConfig) -> int:
        return infer(config, ["a.png"])

    assert run("infer", see, "weights=detector.pb", "class_names=labels.txt", "output=out", "min_score=0") == 0
    (line,) = Path("out/predictions.jsonl").read_text().splitlines()
    boxes = json.loads(line)["boxes"]
    assert "unicorn" in {box["label"] for box in boxes}
    assert len(boxes) <= 50  # as many as its own suppression leaves


def test_training_starts_from_its_boxes_and_from_the_scores_of_namesakes(
    run: Tool, tmp_path: Path, detector: VisionModel
) -> None:
    keys = (
        "task=detection", "weights=detector.pb", "class_names=labels.txt", *SHAPES, "dataset.train_count=8",
        "input.size=[96,96]", "loader.batch_size=4", "trainer.max_epochs=1", "trainer.progress_bar=false",
        "export=false", "optimizer.lr=0", "ema.decay=null", "run_dir=mine",
    )  # fmt: skip
    assert run("train", train, *keys) == 0
    log = (tmp_path / "mine" / "train.log").read_text()
    assert "head.scores=sigmoid" in log
    assert "head.anchors=uniform" in log
    assert "loaded: 2 of " in log
    trained, theirs = VisionModel.load(tmp_path / "mine" / "model"), read(tmp_path / "detector.pb", "f").build()
    ours, start = (each.state_dict() for each in (trained, theirs))
    for name in start:
        if "regressors" in name and "running" not in name and "num_batches" not in name:
            assert torch.equal(ours[name], start[name]), name
    classes = len(trained.class_names["detection"])
    rows = ours["heads.detection.classifiers.2.1.weight"].reshape(6, classes + 1, -1)
    source = start["heads.detection.classifiers.2.1.weight"].reshape(6, 4, -1)
    assert torch.equal(rows[:, [0, 1, 2]], source[:, [0, 3, 1]])


def test_another_head_is_named(run: Tool, tmp_path: Path, detector: VisionModel) -> None:
    keys = (
        "task=detection", "head=ssd", "weights=detector.pb", *SHAPES, "dataset.train_count=8", "input.size=[96,96]",
        "loader.batch_size=4", "trainer.max_epochs=1", "trainer.progress_bar=false", "export=false", "run_dir=mine",
    )  # fmt: skip
    assert run("train", train, *keys) == 0
    said = (tmp_path / "mine" / "train.log").read_text()
    assert "with head=ssdlite it would start from their predictions too" in said
