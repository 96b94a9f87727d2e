import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image as PillowImage

from mbv2kit.commands.export import job as export
from mbv2kit.data.sources import create_source
from mbv2kit.evaluation.run import evaluate
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.vision_model import VisionModel
from tests.exporting.models import small_model
from tests.norms import randomize_norms

Tool = Callable[..., int]
DATA = ("dataset=shapes", "dataset.size=64", "dataset.train_count=12", "dataset.val_count=6")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = create_source("shapes", task="classification", split="val").class_names
    spec = replace(small_model("classification").spec, class_names={"classification": names})
    model = VisionModel(spec).eval()
    randomize_norms(model)
    folder = tmp_path_factory.mktemp("models") / "scenes"
    model.save(folder)
    return folder


@pytest.fixture
def model(saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model folder of one's own, in the current folder."""
    monkeypatch.setenv("MBV2KIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(saved_model, tmp_path / "scenes")
    return "scenes"


def test_a_model_is_exported_and_checked_without_any_data(
    run: Tool, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", export, f"checkpoint={model}", "check_pictures=4", "size=[96,64]") == 0
    said = capsys.readouterr().out
    assert "drawn on the fly" in said
    assert "4 of 4" in said
    assert f"Written: {model}/model.onnx" in said
    (written,) = ModelFolder(Path(model)).read_exports()
    assert (written.file, written.size, written.outputs) == ("model.onnx", (96, 64), ("probabilities",))


def test_int8_shows_accuracy_before_and_after_names_layers_and_is_evaluated(
    run: Tool, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = (f"checkpoint={model}", "precision=int8", "max_loss=1", "sensitive_layers=2", "check_pictures=4")
    assert run("export", export, *keys, *DATA) == 0
    said = capsys.readouterr().out
    assert "Ranges from 12 images (shapes, train)" in said
    assert "Accuracy on 6 images" in said
    assert said.count("backbone.") + said.count("heads.") == 2
    (written,) = ModelFolder(Path(model)).read_exports()
    assert written.precision == "int8"
    capsys.readouterr()
    found = ("runtime=onnxruntime", "loader.workers=0", "run_dir=found")
    assert run("eval", evaluate, f"checkpoint={model}/model_int8.onnx", *found, *DATA) == 0
    assert '"runtime": "onnxruntime on model_int8.onnx"' in Path("found/metrics.json").read_text()


def test_a_file_that_costs_too_much_accuracy_is_not_kept(
    run: Tool, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv2kit.exporting.accuracy.loss", lambda *_: 0.25)
    keys = (f"checkpoint={model}", "precision=int8", "sensitive_layers=0", "check_pictures=2")
    assert run("export", export, *keys, *DATA) == 1
    assert "top1 falls by 0.2500, more than max_loss=0.01; the file was not kept" in capsys.readouterr().out
    assert ModelFolder(Path(model)).read_exports() == ()
    assert not list(Path(model).glob("*.onnx"))


def test_a_file_that_answers_otherwise_is_not_kept(
    run: Tool, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(network: object, path: Path, **_: object) -> None:
        other = small_model("classification")
        randomize_norms(other)
        spec = replace(other.spec, class_names=VisionModel.load(Path(model)).class_names)
        written(ExportNetwork(VisionModel(spec).eval()), path)

    from mbv2kit.exporting.onnx import export_onnx as written
    from mbv2kit.models.export_network import ExportNetwork

    monkeypatch.setattr("mbv2kit.exporting.files.find_writer", lambda format: damaged)
    monkeypatch.setattr("mbv2kit.exporting.check.TOP1_SHARE", {"fp32": 1.01})
    assert run("export", export, f"checkpoint={model}", "check_pictures=3") == 1
    assert "differ from those of the model; it was not kept" in capsys.readouterr().out
    assert not list(Path(model).glob("*.onnx"))


def test_a_model_repository_is_laid_and_the_model_folder_left_as_it_is(
    run: Tool, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path(model).iterdir())
    keys = (f"checkpoint={model}", "format=triton", "output=repository/scenes", "check_pictures=2")
    assert run("export", export, *keys) == 0
    assert "Written: repository/scenes/1/model.onnx" in capsys.readouterr().out
    assert 'name: "scenes"' in Path("repository/scenes/config.pbtxt").read_text()
    assert sorted(Path(model).iterdir()) == before
    assert ModelFolder(Path(model)).read_exports() == ()
    # A version that a server may have loaded is not replaced.
    assert run("export", export, *keys) == 2
    assert "output=repository/scenes exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["format=triton"], "format=triton lays a model repository; name the model in it: output=DIR/NAME"),
        (
            ["format=triton", "output=a/b", "precision=fp16"],
            "format=triton is written in fp32, int8, not",
        ),
        (["format=onnxx"], "got 'onnxx'. Did you mean 'onnx'?"),
        (["precision=int8"], "precision=int8 takes ranges from real images"),
        (["precision=int8", "calibration=nowhere"], "calibration: There is no such file: nowhere"),
        (["nms=true", "batch=1"], "nms=true suppresses boxes, but the model has no detector"),
        (["dataset=shapes", "precision=int8", "output=other"], "output=other holds a model"),
    ],
)
def test_a_slip_is_a_sentence(
    run: Callable[..., int], model: str, keys: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, "other")
    assert run("export", export, f"checkpoint={model}", *keys) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_config_is_complete(run: Tool, model: str) -> None:
    seen: list[DictConfig] = []
    assert run("export", seen.append, f"checkpoint={model}") == 0
    assert seen[0].format == "onnx"


def test_int8_on_a_split_without_ground_truth_is_judged_by_agreement(
    run: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(small_model("detection").spec, class_names={"detection": ("cell",)})
    model = VisionModel(spec).eval()
    randomize_norms(model)
    model.save(tmp_path / "cells")
    rng = np.random.default_rng(0)
    for split, boxes in (("train", 1), ("val", 0)):
        images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(4)]
        (tmp_path / "data" / split).mkdir(parents=True)
        for image in images:
            pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            PillowImage.fromarray(pixels).save(tmp_path / "data" / split / str(image["file_name"]))
        box = {"image_id": 0, "category_id": 1, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0}
        annotations = [{"id": i, **box} for i in range(1, 1 + boxes)]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        (tmp_path / "data" / "annotations").mkdir(exist_ok=True)
        (tmp_path / "data" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    keys = ["checkpoint=cells", "precision=int8", "max_loss=0.01", "sensitive_layers=0", "check_pictures=4"]
    data = ["dataset=coco", "dataset.root=data", "dataset.train_split=train", "dataset.val_split=val"]
    assert run("export", export, *keys, *data) == 0
    said = capsys.readouterr().out
    assert "The accuracy cannot be measured: the 4 images of the validation split have no ground truth for AP" in said
    assert "nan" not in said
    (written,) = ModelFolder(Path("cells")).read_exports()
    assert written.precision == "int8"
