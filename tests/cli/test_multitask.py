"""One model with several heads, through the commands: trained, resumed, evaluated, exported and used."""

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import DictConfig

import mbv2kit
from mbv2kit.commands import convert as converting
from mbv2kit.commands import eval as evaluation
from mbv2kit.commands import export as exporting
from mbv2kit.commands.train import job
from mbv2kit.data.sources.shapes import CLASSES as SHAPES
from mbv2kit.data.sources.shapes import Shapes
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from tests.cli.runs import changed, checkpoint, metrics, rows, state

Run = Callable[..., int]
Train = Callable[..., RunFolder]
ALL = ["classification", "detection", "segmentation"]


@pytest.fixture
def train(train_heads: Train) -> Train:
    return train_heads


@pytest.mark.slow
def test_a_run_goes_through_every_command(
    train: Train, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("export=true")
    found = metrics(folder.path)
    assert (found["task"], found["images"]) == ("multitask", 4)
    first = [found["metrics"][name] for name in ("top1", "AP", "mIoU")]
    assert found["metrics"]["mean"] == pytest.approx(sum(first) / 3)
    assert list(found["model"]["heads"]) == ALL
    assert {"classification/circle", "detection/circle", "segmentation/circle"} <= found["per_class"].keys()
    # The epoch's row holds the heads' gradients and each head's own terms.
    row = rows(folder)[-1]
    assert float(row["val/mean"]) == pytest.approx(
        sum(float(row[f"val/{name}"]) for name in ("top1", "AP", "mIoU")) / 3, rel=1e-4
    )
    pairs = ("classification/detection", "classification/segmentation", "detection/segmentation")
    assert all(-1 <= float(row[f"pull/cosine/{pair}"]) <= 1 for pair in pairs)
    assert all(float(row[f"pull/norm/{task}"]) > 0 for task in ALL)
    assert checkpoint(folder)["pulls"].keys() == {name for name in row if name.startswith("pull/")}

    # Evaluation repeats the figures, of all heads or of one.
    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=again", "loader.workers=0") == 0
    assert metrics(tmp_path / "again")["metrics"] == found["metrics"]
    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=one", "task=detection", "loader.workers=0") == 0
    alone = metrics(tmp_path / "one")
    assert (alone["task"], alone["metrics"]["AP"]) == ("detection", found["metrics"]["AP"])

    # The exported file answers all tasks as torch does; the backbone is in it once.
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), Shapes(task="detection", split="val", size=96)[0].image)
    exact = mbv2kit.load(folder.path, runtime="torch")(photo, min_score=0.0)
    onnx = mbv2kit.load(folder.path, runtime="onnxruntime")(photo, min_score=0.0)
    assert exact["classification"].top(1)[0][0] == onnx["classification"].top(1)[0][0]
    np.testing.assert_allclose(exact.boxes[:5], onnx.boxes[:5], atol=0.05)
    assert (exact.mask == onnx.mask).mean() > 0.999

    # int8 is judged by every task.
    keys = ("precision=int8", "calibration_pictures=4", "check_pictures=2", "sensitive_layers=0", "max_loss=1")
    assert run("export", exporting.job, "checkpoint=run", *keys) == 0
    told = capsys.readouterr().out
    assert all(f"Accuracy on 4 images, {task}" in told for task in ALL)


@pytest.mark.shows("heads")
def test_any_set_of_heads_is_trained_with_its_own_options(train: Train) -> None:
    folder = train("heads=[classifier,ssd]", "heads.detection.min_scale=0.3", "heads.classification.dropout=0")
    heads = VisionModel.load(folder.model).spec.heads
    assert {task: head["name"] for task, head in heads.items()} == {"classification": "classifier", "detection": "ssd"}
    assert (heads["detection"]["min_scale"], heads["classification"]["dropout"]) == (0.3, 0)


def test_a_head_may_be_named_by_its_task(train: Train) -> None:
    folder = train("heads={segmentation:deeplab_v3,classification:classifier}", "heads.segmentation.channels=32")
    heads = VisionModel.load(folder.model).spec.heads
    assert list(heads) == ["classification", "segmentation"]
    assert heads["segmentation"]["channels"] == 32


@pytest.mark.shows("datasets")
def test_each_head_learns_from_its_own_data_set(train: Train) -> None:
    keys = ("datasets.segmentation=shapes", "datasets.segmentation.size=80", "datasets.segmentation.train_count=6")
    folder = train("heads=[classifier,deeplab_v3]", *keys, "datasets.segmentation.val_count=5")
    config = folder.read_config()
    assert config["datasets"]["segmentation"]["size"] == 80
    assert folder.dataset("classification") != folder.dataset("segmentation")
    found = metrics(folder.path)
    assert (found["dataset"], found["images"]) == ("shapes", 4 + 5)
    # Two images of each in a batch: four steps until the eight of the first are through.
    assert rows(folder)[-1]["step"] == "8"
    said = "classification on shapes (made on the fly): 8 images, 5 classes; segmentation on shapes"
    assert said in folder.log.read_text(encoding="utf-8")


@pytest.mark.shows("loader.ratio")
def test_a_ratio_shares_out_the_batch(train: Train) -> None:
    keys = ("heads=[classifier,deeplab_v3]", "datasets.segmentation=shapes", "datasets.segmentation.seed=1")
    sizes = ("datasets.segmentation.size=64", "datasets.segmentation.train_count=8", "loader.batch_size=6")
    folder = train(*keys, *sizes, "loader.ratio={classification:3,segmentation:1}")
    # Four of six images are of the first, whose eight are through after two steps; the others take four.
    assert rows(folder)[-1]["step"] == "8"
    assert checkpoint(folder)["DataModule"]["shares"] == [4, 2]


@pytest.mark.shows("loader.mixed")
def test_data_sets_pass_through_the_network_together_or_apart(train: Train, passes: list[int]) -> None:
    keys = ("heads=[classifier,deeplab_v3]", "datasets.segmentation=shapes", "datasets.segmentation.train_count=9")
    sizes = ("datasets.segmentation.size=64", "datasets.segmentation.val_count=4", "trainer.max_epochs=1")
    train(*keys, *sizes, folder="mixed")
    together, passes[:] = passes[:], []
    train(*keys, *sizes, "loader.mixed=false", folder="apart")
    assert together == [4] * 4
    assert passes == [2] * 8


@pytest.mark.shows("loss_weights")
def test_weights_count_a_loss_more_or_less_or_are_learned(train: Train) -> None:
    heads = "heads=[classifier,deeplab_v3]"
    plain, half = train(heads, folder="plain"), train(heads, "loss_weights.segmentation=0.5", folder="half")
    learned = train(heads, "loss_weights=uncertainty", folder="learned")
    losses = {}
    for folder in (plain, half, learned):
        row = rows(folder)[0]
        losses[folder.path.name] = [
            float(row[f"train/{name}"])
            for name in ("loss", "classification/classification", "segmentation/segmentation")
        ]
    total, label, mask = losses["plain"]
    assert total == pytest.approx(label + mask, rel=1e-4)
    total, label, mask = losses["half"]
    assert total == pytest.approx(label + mask / 2, rel=1e-4)
    moved = checkpoint(learned)["state_dict"]
    variances = [moved[f"weights.log_variances.{task}"] for task in ("classification", "segmentation")]
    assert all(0 < abs(float(value)) < 1 for value in variances)


@pytest.mark.shows("gradients")
@pytest.mark.parametrize("method", ["pcgrad", "upgrad", "mgda"])
def test_gradients_are_combined(train: Train, method: str) -> None:
    heads = "heads=[classifier,deeplab_v3]"
    plain, combined = train(heads, "trainer.max_epochs=1", folder="plain"), train(heads, f"gradients={method}")
    # The first step's losses are those of the same weights; later ones are not.
    assert rows(plain)[0]["pull/norm/segmentation"] == rows(combined)[0]["pull/norm/segmentation"]
    assert changed(state(plain), state(combined))


@pytest.mark.shows("task.references")
def test_references_say_what_counts_as_one(train: Train, run: Run, tmp_path: Path) -> None:
    folder = train("heads=[classifier,deeplab_v3]", "task.references={segmentation:0.5}")
    found = metrics(folder.path)["metrics"]
    assert found["mIoU"] > 0
    assert found["mean"] == pytest.approx((found["top1"] + found["mIoU"] / 0.5) / 2)
    assert float(rows(folder)[-1]["val/mean"]) == pytest.approx(found["mean"], abs=1e-4)
    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=again", "loader.workers=0") == 0
    assert metrics(tmp_path / "again")["metrics"] == found


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("heads=[]", "'heads=[]' names none; name some, or leave it out."),
        (
            "datasets.detection.size=64",
            "datasets is null and has no key 'detection.size'; give it a value first, as in",
        ),
        ("heads=[classifier]", "task=multitask trains several heads, and heads has 1; name more"),
        ("heads=[ssd,ssdlite]", "'heads=[ssd,ssdlite]' has 2 heads for detection; give them names of their"),
        ("heads=[classifier,ssdlit]", "There is no head 'ssdlit'. Did you mean 'ssdlite'?"),
        ("heads={detection:classifier,segmentation:deeplab_v3}", "head 'classifier' does classification, but task is"),
        ("heads.detection.anchor=tf", "There is no key 'heads.detection.anchor'. Did you mean"),
        ("head=ssd", "head=ssd is for a model of one task; with task=multitask write heads=[...]."),
        ("loss_weights.boxes=1", "loss_weights.boxes: the model has no head for boxes; its heads are"),
        ("loss_weights=unsure", "loss_weights must be"),
        ("loss_weights.detection=-1", "loss_weights must be a set of keys, each with a number above 0"),
        ("heads=[classifier,ssd] loss_weights.segmentation=1", "loss_weights.segmentation: the model has no head for"),
        (
            "heads=[classifier,ssd] loader.ratio={segmentation:2}",
            "loader.ratio.segmentation: the model has no head for",
        ),
        ("heads=[classifier,ssd] datasets.segmentation=shapes", "datasets.segmentation: the model has no head for"),
        ("augment=detection", "augment 'detection' needs samples with 'boxes', but task is multitask; choose"),
        ("evaluator=mean_iou", "evaluator 'mean_iou' measures segmentation, but the task is multitask."),
        (
            "loader.mixed=false",
            "loader.mixed is for several data sets, and there is one; name others",
        ),
        ("gradients=sum", "gradients must be one of pcgrad, upgrad, mgda, or null, got 'sum'."),
        ("gradients=mgda trainer.accumulate=2", "gradients=mgda combines the gradients of a whole batch, and"),
        ("gradients=mgda trainer.precision=16-mixed", "gradients=mgda cannot scale gradients, as trainer.precision="),
        (
            "heads=[classifier,ssd] datasets.detection=shapes datasets.detection.size=64 "
            "datasets.detection.train_count=8 datasets.detection.val_count=4 loader.ratio.detection=2",
            "loader.ratio is for several data sets, and there is one; name others",
        ),
        ("datasets=[shapes]", "'datasets=[shapes]': write datasets={TASK:NAME,TASK:NAME}."),
        ("datasets.detection=folder", "dataset 'folder' serves classification, not detection"),
        ("datasets.detection=coco", "dataset 'coco' needs datasets.detection.root=FOLDER"),
    ],
)
def test_a_mistake_is_a_sentence(
    run: Run, tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, keys: str, message: str
) -> None:
    assert run("train", job, *tiny, "task=multitask", "input.size=[65,65]", "run_dir=run", *keys.split()) == 2
    assert f"error: {message}" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keys", "heads"),
    [
        ("heads=[classifier,ssdlite],[ssd,deeplab_v3]", ["classifier ssdlite", "ssd deeplab_v3"]),
        (
            "heads.classification=classifier heads.detection=ssd,ssdlite",
            ["classifier ssd deeplab_v3", "classifier ssdlite deeplab_v3"],
        ),
    ],
)
def test_a_sweep_tries_sets_of_heads(run: Run, keys: str, heads: list[str]) -> None:
    seen: list[str] = []
    weights: list[float] = []

    def look(config: DictConfig) -> None:
        seen.append(" ".join(head.name for head in config.heads.values()))
        weights.append(config.loss_weights.detection)

    # The experiment has options of three heads.
    lines = ("-m", "experiment=shapes/multitask", "loss_weights.detection=0.5,1", "run_dir=sweep", *keys.split())
    assert run("train", look, *lines) == 0
    assert sorted(zip(seen, weights, strict=True)) == sorted(product(heads, (0.5, 1.0)))


def test_an_experiment_gives_options_to_the_heads_that_are_chosen(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    keys = ("experiment=shapes/multitask", "heads=[classifier,ssdlite]", "run_dir=run")
    assert run("train", seen.append, *keys) == 0
    assert list(seen[0].heads) == ["classification", "detection"]
    assert seen[0].heads.detection.min_scale == 0.15
    assert run("train", seen.append, *keys, "heads.segmentation.channels=8") == 2
    assert "error: There is no key 'heads.segmentation.channels'." in capsys.readouterr().err


@pytest.mark.parametrize("key", ["heads=[classifier,ssd]", "loss_weights=uncertainty", "datasets.detection=shapes"])
def test_keys_of_several_heads_are_refused_for_one(
    run: Run, tiny: list[str], capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert run("train", job, *tiny, "task=classification", "run_dir=run", key) == 2
    assert f"error: {re.split('[.=]', key)[0]} is for a model of several heads" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.shows("finetune.train_only")
def test_an_added_head_leaves_the_others_as_they_are(train: Train, run: Run, tmp_path: Path) -> None:
    old = train("heads=[classifier,ssdlite]", "export=true", folder="old")
    keys = ("weights=old", "finetune.train_only=[segmentation]", "ema.decay=0.9", "dataset.seed=1", "export=true")
    # The input is that of the weights, whatever is said.
    new = train(*keys, "input.size=[97,97]", folder="new")
    before, after = (VisionModel.load(folder.model) for folder in (old, new))
    assert list(after.heads) == ALL
    assert after.spec.input == before.spec.input
    kept, tensors = before.state_dict(), after.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in kept.items())
    assert set(metrics(new.path)["per_class"]) == {"background", *SHAPES}

    # The run has data for the new head alone, and is measured and exported with these.
    assert run("eval", evaluation.job, "checkpoint=new", "run_dir=again", "loader.workers=0") == 0
    assert metrics(tmp_path / "again")["metrics"] == metrics(new.path)["metrics"]
    named = ("dataset=shapes", "dataset.size=64", "dataset.val_count=4")
    assert run("eval", evaluation.job, "checkpoint=new", "run_dir=all", "loader.workers=0", *named) == 0
    assert metrics(tmp_path / "all")["task"] == "multitask"

    photo = Shapes(task="detection", split="val", size=96)[3].image
    for runtime in ("torch", "onnxruntime"):
        first, second = (mbv2kit.load(folder.path, runtime=runtime)(photo, min_score=0.0) for folder in (old, new))
        assert np.array_equal(first["classification"].scores, second["classification"].scores)
        assert np.array_equal(first.boxes, second.boxes)
        assert np.array_equal(first["detection"].scores, second["detection"].scores)
        assert second.mask.shape == (96, 96)

    # The new head alone moves, also where the run goes on.
    earlier = state(new)
    assert run("train", job, "resume=new", "trainer.max_epochs=3") == 0
    moved = changed(earlier, state(new))
    assert moved
    assert all(name.startswith("heads.segmentation.") for name in moved)


def test_a_head_is_taken_away_and_the_others_predict_as_before(
    train: Train, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train("trainer.max_epochs=1")
    assert run("convert", converting.job, "source=run", "output=less", "tasks=[detection,segmentation]") == 0
    less = VisionModel.load(tmp_path / "less")
    assert list(less.heads) == ["detection", "segmentation"]
    photo = Shapes(task="detection", split="val", size=96)[3].image
    first, second = (mbv2kit.load(folder, runtime="torch")(photo, min_score=0.0) for folder in (whole.path, "less"))
    assert np.array_equal(first.boxes, second.boxes)
    assert np.array_equal(first["detection"].scores, second["detection"].scores)
    assert np.array_equal(first.mask, second.mask)
    capsys.readouterr()
    assert run("convert", converting.job, "source=less", "output=none", "tasks=[classification]") == 2
    assert capsys.readouterr().err == "error: The model does detection, segmentation, not classification.\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "finetune.train_only keeps the rest of a trained model, and weights is null; set weights=RUN."),
        ("finetune.backbone_lr=0.1", "finetune.backbone_lr=0.1 does nothing next to finetune.train_only, which keeps"),
        ("weights=old heads=[classifier,ssdlite]", "finetune.train_only: the model has no head for segmentation; its"),
        (
            "weights=old",
            "do classification, segmentation, but task is detection; finetune.train_only keeps heads",
        ),
        (
            "weights=old heads=[classifier,deeplab_v3] qat.enabled=true",
            "finetune.train_only keeps weights as they are, and qat.enabled rounds all of them; leave one of them out.",
        ),
    ],
)
def test_a_head_that_cannot_be_added_is_a_sentence(
    train: Train, run: Run, tiny: list[str], capsys: pytest.CaptureFixture[str], keys: str, message: str
) -> None:
    if "weights" in keys:
        train("heads=[classifier,deeplab_v3]", "trainer.max_epochs=1", folder="old")
    capsys.readouterr()
    several = ("task=multitask", "input.size=[65,65]", "finetune.train_only=[segmentation]")
    assert run("train", job, *tiny, *several, "run_dir=run", *keys.split()) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_layers_that_the_weights_lack_cannot_be_kept(
    train: Train, run: Run, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # A model of these maps has no last layers, which a classifier reads.
    maps = "heads.detection.maps=[layer_8_expansion,layer_15_expansion]"
    train("heads=[ssdlite,deeplab_v3]", maps, "trainer.max_epochs=1", folder="old")
    keys = ("task=multitask", "weights=old", "finetune.train_only=[classification]", "run_dir=run")
    assert run("train", job, *tiny, *keys) == 2
    assert "but they lack backbone.layers.layer_" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_takes_changes_of_its_own_parts(
    train: Train, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("heads=[classifier,deeplab_v3]", "datasets.segmentation=shapes", "datasets.segmentation.train_count=8")
    folder = train(*keys, "datasets.segmentation.size=64", "datasets.segmentation.seed=3", "trainer.max_epochs=1")
    more = ("resume=run", "trainer.max_epochs=2", "datasets.segmentation.val_count=7")
    assert run("train", job, *more) == 0
    assert folder.read_config()["datasets"]["segmentation"]["val_count"] == 7
    assert "datasets.segmentation.val_count=7 (was 300)" in folder.log.read_text(encoding="utf-8")
    capsys.readouterr()
    assert run("train", job, "resume=run", "trainer.max_epochs=3", "heads.segmentation.channels=8") == 2
    assert "'heads.segmentation.channels=8' makes another model of the run" in capsys.readouterr().err
    assert run("train", job, "resume=run", "trainer.max_epochs=3", "datasets.segmentation.name=voc") == 2
    assert "'datasets.segmentation.name=voc' makes another model of the run" in capsys.readouterr().err


def test_a_recipe_chooses_heads_and_data_sets(train: Train, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /task: multitask\n  - override /heads: classifier+deeplab_v3\n"
        "heads: {segmentation: {channels: 16}}\n"
        "datasets: {segmentation: {name: shapes, size: 64, seed: 4, train_count: 8, val_count: 4}}\n"
    )
    folder = train("experiment=./mine.yaml", "datasets.segmentation.val_count=5")
    heads = VisionModel.load(folder.model).spec.heads
    assert {task: head["name"] for task, head in heads.items()} == {
        "classification": "classifier",
        "segmentation": "deeplab_v3",
    }
    assert heads["segmentation"]["channels"] == 16
    data = folder.read_config()["datasets"]["segmentation"]
    assert (data["seed"], data["val_count"], data["train_split"]) == (4, 5, "train")
