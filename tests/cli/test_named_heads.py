"""Two heads of one task, each with a name of its own, through the commands."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import mbv2kit
from mbv2kit.commands import convert as converting
from mbv2kit.commands import eval as evaluation
from mbv2kit.commands import export as exporting
from mbv2kit.commands.train import job
from mbv2kit.inference.run import infer
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import RunFolder, newest_finished_run
from mbv2kit.models.vision_model import VisionModel
from tests.cli.runs import checkpoint, metrics, rows
from tests.training.test_resume import assert_same_run

Run = Callable[..., int]
Train = Callable[..., RunFolder]

COLORS = {"blue": (255, 0, 0), "red": (0, 0, 255)}
# Two classifiers on class folders of their own, and two segmentation heads.
KEYS = (
    "heads={color:classifier,tone:classifier,segmentation:deeplab_v3,parts:deeplab_v3}",
    *("datasets.color=folder", "datasets.color.root=colors", "datasets.color.train_split=train"),
    *("datasets.tone=folder", "datasets.tone.root=2012"),
    *("datasets.parts=shapes", "datasets.parts.size=80", "datasets.parts.train_count=8", "datasets.parts.val_count=4"),
    *("heads.tone.dropout=0.4", "loader.batch_size=8", "task.references={tone:0.5}", "loss_weights.color=2"),
)
LESS = ("datasets.color=folder", "datasets.color.root=colors", "loader.batch_size=8")
HEADS = ["segmentation", "color", "tone", "parts"]


def draw(folder: Path, value: tuple[int, int, int], count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        image = np.full((40, 50, 3), value, np.uint8)
        image[: index + 1] = 128
        cv2.imwrite(str(folder / f"{index}.png"), image)


@pytest.fixture
def train(train_heads: Train, tmp_path: Path) -> Train:
    """Trains heads on images that it draws."""
    for split, count in (("train", 6), ("val", 3)):
        for name, value in COLORS.items():
            draw(tmp_path / "colors" / split / name, value, count)
        for name, gray in {"dark": 30, "light": 220, "medium": 120}.items():
            draw(tmp_path / "2012" / split / name, (gray, gray, gray), count)
    return train_heads


@pytest.mark.slow
def test_heads_of_one_task_go_through_every_command(
    train: Train, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*KEYS, "export=true")
    model = VisionModel.load(folder.model)
    assert list(model.heads) == HEADS
    assert model.spec.tasks == {
        "segmentation": "segmentation",
        "color": "classification",
        "tone": "classification",
        "parts": "segmentation",
    }
    assert model.class_names["tone"] == ("dark", "light", "medium")
    assert model.spec.heads["tone"]["dropout"] == 0.4
    found = metrics(folder.path)
    # Names of their own tell the metrics apart; a reference is that of a head.
    assert {"mean", "mIoU", "color/top1", "tone/top1", "parts/mIoU"} <= found["metrics"].keys()
    firsts = {"mIoU": 1.0, "color/top1": 1.0, "tone/top1": 0.5, "parts/mIoU": 1.0}
    mean = sum(found["metrics"][name] / reference for name, reference in firsts.items()) / 4
    assert found["metrics"]["mean"] == pytest.approx(mean)
    row = rows(folder)[-1]
    assert float(row["val/tone/top1"]) == pytest.approx(found["metrics"]["tone/top1"], rel=1e-4)
    assert float(row["pull/norm/color"]) > 0
    assert -1 <= float(row["pull/cosine/color/tone"]) <= 1
    assert (folder.plots / "color" / "confusion_matrix.png").is_file()
    assert (folder.plots / "tone" / "confusion_matrix.png").is_file()
    # Images of the four data sets stay apart.
    assert checkpoint(folder)["DataModule"]["shares"] == [2, 2, 2, 2]

    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=again", "loader.workers=0") == 0
    assert metrics(tmp_path / "again")["metrics"] == found["metrics"]
    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=one", "task=tone", "loader.workers=0") == 0
    alone = metrics(tmp_path / "one")
    assert (alone["task"], alone["metrics"]["top1"]) == ("classification", found["metrics"]["tone/top1"])

    # A data set that is named measures the head that was trained on it.
    named = ("dataset=folder", "dataset.root=2012", "loader.workers=0")
    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=named", *named) == 0
    assert metrics(tmp_path / "named")["metrics"] == alone["metrics"]
    assert metrics(tmp_path / "named")["head"] == "tone"
    capsys.readouterr()
    other = ("dataset=folder", "dataset.root=colors/train", "dataset.val_split=blue", "loader.workers=0")
    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=other", *other) == 2
    told = capsys.readouterr().err.replace("\n", " ")
    assert "error: The model has several heads for classification, and dataset 'folder' is that of none of them" in told
    assert "task=color or task=tone" in told
    assert run("eval", evaluation.job, "checkpoint=run", "run_dir=other", "evaluator=accuracy") == 2
    assert "add task=color or task=tone, or leave it out" in capsys.readouterr().err.replace("\n", " ")
    # The newest run is found by any of its heads.
    assert newest_finished_run("tone", tmp_path).path == folder.path

    # The exported file has the outputs of each head under its name.
    (export,) = ModelFolder(folder.model).read_exports()
    assert export.outputs == ("mask", "color_probabilities", "tone_probabilities", "parts_mask")
    photo = tmp_path / "colors" / "val" / "red" / "0.png"
    exact = mbv2kit.load(folder.path, runtime="torch")(photo)
    onnx = mbv2kit.load(folder.path, runtime="onnxruntime")(photo)
    for head in ("color", "tone"):
        assert exact[head].labels == onnx[head].labels
        np.testing.assert_allclose(exact[head].scores, onnx[head].scores, atol=1e-4)
    for head in ("segmentation", "parts"):
        assert (exact[head].mask == onnx[head].mask).mean() > 0.999
    assert set(exact["tone"].labels) == {"dark", "light", "medium"}
    with pytest.raises(AttributeError, match=r'write result\["color"\]\.labels'):
        exact.labels  # noqa: B018

    # A line holds the answers of each head under its name, and each mask has a file.
    assert run("infer", lambda config: infer(config, [str(photo)]), "checkpoint=run", "output=out") == 0
    (line,) = map(json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines())
    assert line["tasks"] == ["segmentation", "classification"]
    assert line["mask"] == "masks/0.png"
    assert list(line["heads"]) == ["color", "tone", "parts"]
    assert line["heads"]["color"]["classes"][0]["label"] == onnx["color"].labels[0]
    assert (tmp_path / "out" / line["heads"]["parts"]["mask"]).is_file()
    assert line["heads"]["parts"]["mask"] == "masks_parts/0.png"

    # int8 is judged by each head.
    keys = ("precision=int8", "calibration_pictures=4", "check_pictures=2", "sensitive_layers=0", "max_loss=1")
    assert run("export", exporting.job, "checkpoint=run", *keys) == 0
    told = capsys.readouterr().out
    images = {"segmentation": 4, "color": 6, "tone": 9, "parts": 4}
    assert all(f"Accuracy on {count} images, {head}" in told for head, count in images.items())

    # One of the heads predicts as before.
    assert run("convert", converting.job, "source=run", "output=tones", "tasks=[tone]") == 0
    kept = mbv2kit.load("tones", runtime="torch")(photo)
    assert kept.labels == exact["tone"].labels
    np.testing.assert_array_equal(kept.scores, exact["tone"].scores)
    assert kept.task == "classification"


def test_a_run_with_named_heads_goes_on_where_it_stopped(train: Train, run: Run, tmp_path: Path) -> None:
    whole = train(*KEYS, folder="whole")
    train(*KEYS, "trainer.max_epochs=1", folder="part")
    assert run("train", job, "resume=part", "trainer.max_epochs=2") == 0
    assert_same_run(whole, RunFolder(tmp_path / "part"))


@pytest.mark.slow
def test_a_named_head_is_added_to_a_trained_model(train: Train, run: Run, tmp_path: Path) -> None:
    old = train("heads={color:classifier,segmentation:deeplab_v3}", *LESS, folder="old")
    keys = ("heads={color:classifier,segmentation:deeplab_v3,tone:classifier}", "weights=old", "loader.batch_size=8")
    new = train(*keys, "finetune.train_only=[tone]", "datasets.tone=folder", "datasets.tone.root=2012", folder="new")
    before, after = VisionModel.load(old.model).state_dict(), VisionModel.load(new.model).state_dict()
    assert {name for name in after if name not in before} == {name for name in after if "heads.tone" in name}
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert set(metrics(new.path)["per_class"]) == {"dark", "light", "medium"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("heads=[classifier,classifier]", "'heads=[classifier,classifier]' has 2 heads for classification; give them"),
        ("heads={Tone:classifier,detection:ssd}", "the name of heads.Tone must be text of small letters, digits and _"),
        ("heads={name:classifier,detection:ssd}", "the name of heads.name must be text of small letters, digits and _"),
        ("heads={training:classifier,detection:ssd}", "A head cannot be called 'training', which has a meaning"),
        ("heads={type:classifier,detection:ssd}", "A head cannot be called 'type', which has a meaning in PyTorch"),
        ("heads={tone:klassifier,detection:ssd}", "There is no head 'klassifier'. Did you mean 'classifier'?"),
        ("heads={tone:classifier,detection:ssd} heads.tone.dropuot=0", "There is no key 'heads.tone.dropuot'. Did you"),
        ("heads={tone:classifier,detection:ssd} datasets.color=folder", "datasets.color: the model has no head for"),
        ("heads={tone:classifier,detection:ssd} loss_weights.color=2", "loss_weights.color: the model has no head for"),
    ],
)
def test_a_slip_in_a_name_is_a_sentence(
    run: Run, tiny: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, keys: str, message: str
) -> None:
    assert run("train", job, *tiny, "task=multitask", "input.size=[65,65]", "run_dir=run", *keys.split()) == 2
    assert f"error: {message}" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()
