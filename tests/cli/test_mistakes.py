"""A user's slips: one sentence on stderr, exit code 2, and nothing left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mbv2kit.commands.eval import job as evaluate
from mbv2kit.commands.train import job as train
from tests.processes import run_forked

Run = Callable[..., int]

TRAIN = [
    ("dataset=cooc", "There is no dataset 'cooc'. Did you mean 'coco'?"),
    ("backbone.widht=0.5", "There is no key 'backbone.widht'. Did you mean 'backbone.width'?"),
    ("head=ssdlte", "There is no head 'ssdlte'. Did you mean 'ssdlite'?"),
    ("task=segmentaton", "There is no task 'segmentaton'. Did you mean 'segmentation'?"),
    ("optimizer=adam", "There is no optimizer 'adam'. Did you mean 'adamw'?"),
    ("experiment=bccd/detecton", "There is no experiment 'bccd/detecton'. Did you mean 'bccd/detection'?"),
    ("backbone.width=wide", "backbone.width must be a number"),
    ("trainer.max_epochs", "'trainer.max_epochs' is not of the form key=value."),
    (
        "task=detection dataset=folder",
        "serves classification, not detection; datasets that do: coco, shapes, shards, voc.",
    ),
    ("task=classification dataset=voc", "serves detection, segmentation, not classification; datasets that do: folder"),
    ("task=detection head=classifier", "head 'classifier' does classification, but task is detection;"),
    ("head=yolo_v2", "head 'yolo_v2' does detection, but task is classification; choose a head for classification: cl"),
    (
        "task=detection augment=classification",
        "augment 'classification' needs samples with 'label', but task",
    ),
    ("task=detection evaluator=accuracy", "evaluator 'accuracy' measures classification, but the task is detection."),
    ("trainer.precision=bf16-true", "trainer.precision must be one of 32-true, bf16-mixed, 16-mixed, got 'bf16-true'."),
    ("optimizer=sgd optimizer.momentum=0", "optimizer 'sgd': nesterov needs a momentum above 0"),
    ("loader.batch_size=1", "loader.batch_size is 1"),
    ("backbone.width=-1", "width"),
    ("backbone.output_stride=7", "output_stride"),
    ("optimizer.lr=-1", "optimizer.lr must be a number from 0 to 1,000, got -1."),
    (
        "trainer.limit_train_batches=0.5",
        "must be a whole number from 1 to 1,000,000, or null, got 0.5.",
    ),
    ("trainer.devices=0", "trainer.devices must be a whole number that is 1"),
    ("dataset.root=data", "dataset 'shapes' makes its own images: leave dataset.root out (got "),
    ("weights=nowhere.pth", "There is no file or folder nowhere.pth; give a run or model folder, a .tflite, .pb, .pth"),
    ("class_names=names.txt", "class_names=names.txt names the classes of weights=, and there are none; leave it out"),
    ("finetune.backbone_lr=-1", "finetune.backbone_lr must be a number from 0 to 1,000, got -1."),
    ("finetune.frozen_layers=layer_99", "The backbone has no layer 'layer_99'. Did you mean 'layer_9'?"),
    ("resume=nowhere", "resume=nowhere: this is no run folder, since it has no config.yaml."),
]


@pytest.mark.parametrize(("arguments", "message"), TRAIN, ids=[arguments for arguments, _ in TRAIN])
def test_train(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert run("train", train, *arguments.split()) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "found", "expected"),
    [
        ("dataset=folder", "dataset 'folder' needs dataset.root=FOLDER.", "ROOT/train/CLASS/"),
        (
            "dataset=folder dataset.root=nowhere",
            "dataset.root is not an existing folder.",
            "ROOT/train/CLASS/",
        ),
        ("dataset=folder dataset.root=.", "no folder here holds class folders with images.", "ROOT/train/CLASS/"),
        ("task=detection dataset=coco dataset.root=.", "", "ROOT/annotations/instances_"),
        ("task=segmentation dataset=voc", "dataset 'voc' needs dataset.root=FOLDER.", "ROOT/JPEGImages/"),
    ],
)
def test_data_that_is_not_there_is_answered_with_the_layout(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: str, found: str, expected: str
) -> None:
    assert run("train", train, *arguments.split()) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    sentence, layout = said.split("Expected layout:\n")
    assert sentence.count("\n") == 0
    assert found in sentence
    assert expected in layout
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "There is no finished run below "),
        ("task=detection", "train one first (mbv2kit train task=detection)"),
        ("checkpoint=nowhere", "There is no file or folder nowhere; give a run or model folder, a .tflite,"),
        ("checkpoint=.", ". holds neither a model.json, nor a folder model with one, nor a config.json; give a run"),
        ("checkpoint=a weights=b", "checkpoint=a and weights=b both name a model; give one of them."),
        ("checkpont=nowhere", "There is no key 'checkpont'. Did you mean 'checkpoint'?"),
        ("dataset=cooc", "There is no dataset 'cooc'. Did you mean 'coco'?"),
        ("loader.batch_size=many", "loader.batch_size must be a whole number from 1 to 65,536, got 'many'."),
    ],
)
def test_eval(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert run("eval", evaluate, *arguments.split()) == 2
    said = capfd.readouterr()
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_slip_that_only_the_data_shows_is_one_line_of_the_real_tool(root: Path, tmp_path: Path) -> None:
    done = run_forked(root / "tools" / "train.py", "loader.batch_size=1", "run_dir=mine", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Batch normalization cannot train on one image at a time")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
