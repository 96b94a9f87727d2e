"""A model scores the same in training, in evaluation and in use."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image as PillowImage

from mbv2kit.cli.config import compose_config, register_parts
from mbv2kit.data.datamodule import evaluation_loader
from mbv2kit.data.joined import Joined
from mbv2kit.data.sources import open_source
from mbv2kit.errors import UserError
from mbv2kit.evaluation.run import evaluate
from mbv2kit.inference.torch_models import as_trained, folded
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS, Classification, Detections, Prediction, Segmentation, Task
from mbv2kit.training.parts import training_parts

pytestmark = pytest.mark.usefixtures("clean_process")

Trained = Callable[[str], RunFolder]
SHAPES = ["dataset=shapes", "dataset.size=64", "dataset.val_count=6"]


@pytest.fixture
def evaluation(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Composes an evaluation that runs in an empty folder."""
    register_parts(root / "conf", training_parts())
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: compose_config(root / "conf", "eval", ["loader.workers=0", *overrides])


def figures(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    del content["seconds"]
    return content


def assert_close(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_close(left[key], right[key])
    elif isinstance(left, float):
        assert left == pytest.approx(right, abs=1e-6)
    else:
        assert left == right


def assert_alike(left: Prediction, right: Prediction) -> None:
    if isinstance(left, Segmentation):
        assert isinstance(right, Segmentation)
        np.testing.assert_array_equal(left.mask, right.mask)
        return
    assert isinstance(right, type(left))
    assert isinstance(left, Classification | Detections)
    np.testing.assert_array_equal(left.class_ids, right.class_ids)
    np.testing.assert_allclose(left.scores, right.scores, atol=1e-5)
    if isinstance(left, Detections):
        assert isinstance(right, Detections)
        assert len(left.boxes) > 0
        np.testing.assert_allclose(left.boxes, right.boxes, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_evaluation_repeats_the_figures_of_the_run(
    trained: Trained, evaluation: Callable[..., DictConfig], tmp_path: Path, task: Task
) -> None:
    run = trained(task)
    evaluate(evaluation(f"checkpoint='{run.path}'", "run_dir=again"))
    assert_close(figures(Path("again")), figures(run.path))
    images = sorted(path.name for path in run.predictions.iterdir())
    assert sorted(path.name for path in Path("again/predictions").iterdir()) == images
    assert [path.name for path in Path().iterdir()] == ["again"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_images_read_from_files_give_what_evaluation_saw(trained: Trained, tmp_path: Path, task: Task) -> None:
    run = trained(task)
    model = VisionModel.load(run.model)
    source = open_source({"name": "shapes", "root": None, "size": 64, "val_count": 6}, task, "val")
    seen: list[Prediction] = []
    for batch in evaluation_loader(Joined({task: source}), model.preprocess, batch_size=4, workers=0):
        inputs = batch.images.permute(0, 2, 3, 1).numpy()
        seen += [each[task] for each in as_trained(model).predict_inputs(inputs, batch.placements)]
    paths = [tmp_path / f"{index}.png" for index in range(len(source))]
    for path, sample in zip(paths, (source[index] for index in range(len(source))), strict=True):
        PillowImage.fromarray(sample.image).save(path)
    results = folded(VisionModel.load(run.model))(paths, batch_size=5)
    assert len(results) == len(seen) == 6
    for result, expected in zip(results, seen, strict=True):
        assert_alike(result.predictions[task], expected)


@pytest.mark.slow
def test_without_a_checkpoint_the_newest_run_is_taken_and_said(
    trained: Trained,
    evaluation: Callable[..., DictConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = trained("classification")
    copytree(run.path, tmp_path / "outputs" / "mine")
    with pytest.raises(UserError, match=r"no finished detection run below .*task=detection"):
        evaluate(evaluation("task=detection"))
    evaluate(evaluation())
    assert "outputs/mine/model" in caplog.text
    (folder,) = Path("outputs/eval/classification/shapes").iterdir()
    assert_close(figures(folder), figures(run.path))


@pytest.mark.slow
def test_a_model_folder_needs_a_dataset_of_its_classes(
    trained: Trained, evaluation: Callable[..., DictConfig], tmp_path: Path
) -> None:
    model = VisionModel.load(trained("classification").model)
    model.save(tmp_path / "alone")
    with pytest.raises(UserError, match=r"name one: dataset=NAME dataset\.root=DIR"):
        evaluate(evaluation("checkpoint=alone"))
    with pytest.raises(UserError, match="The model was trained for classification, not detection"):
        evaluate(evaluation("checkpoint=alone", "task=detection", *SHAPES))
    evaluate(evaluation("checkpoint=alone", "run_dir=a", *SHAPES))
    assert_close(figures(Path("a")), figures(trained("classification").path))

    # Class folders in another order, and not all of them: images of one class each, plus one that no one knows.
    source = open_source({"name": "shapes", "root": None, "size": 64, "val_count": 6}, "classification", "val")
    samples = [source[index] for index in range(6)]
    for index, sample in enumerate(samples):
        assert sample.label is not None
        folder = tmp_path / "data" / "val" / source.class_names[sample.label]
        folder.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(sample.image).save(folder / f"{index}.png")
    evaluate(evaluation("checkpoint=alone", "run_dir=b", "dataset=folder", "dataset.root=data"))
    assert_close(figures(Path("b")) | {"dataset": "shapes"}, figures(Path("a")))
    (tmp_path / "data" / "val" / "zebra").mkdir()
    PillowImage.fromarray(samples[0].image).save(tmp_path / "data" / "val" / "zebra" / "0.png")
    with pytest.raises(UserError, match=r"classes that the model does not know: zebra\. The model knows circle, "):
        evaluate(evaluation("checkpoint=alone", "run_dir=c", "dataset=folder", "dataset.root=data"))
    assert not Path("c").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"There is no finished run below .*train one first"),
        (["checkpoint=nowhere"], "There is no file or folder nowhere; give a run or model folder"),
        (["checkpoint=."], r"\. holds neither a model\.json, nor a folder model with one, nor a config\.json"),
    ],
)
def test_without_a_model_the_message_says_what_to_do(
    evaluation: Callable[..., DictConfig], tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(evaluation(*overrides))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loader.batch_size=0", "loader.batch_size must be a whole number from 1 to 65,536, got 0"),
        ("loader.workers=-1", "loader.workers must be a whole number from 0 to 512, got -1"),
        ("split=test", "dataset 'shapes' has no split 'test'; splits found: train, val"),
    ],
)
def test_a_slip_is_told_and_leaves_no_folder(
    trained: Trained, evaluation: Callable[..., DictConfig], tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(evaluation(f"checkpoint='{trained('classification').path}'", override))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_precision_that_is_named_is_measured_and_said(
    trained: Trained,
    evaluation: Callable[..., DictConfig],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = RunFolder(tmp_path / "run")
    copytree(trained("classification").path, run.path)
    (export,) = ModelFolder(run.model).read_exports()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "model_int8.onnx").write_bytes((run.model / "model.onnx").read_bytes())
    ModelFolder(run.model).add_export(replace(export, file="model_int8.onnx", precision="int8"), tmp_path / "scratch")
    for i, key in enumerate(("checkpoint=run precision=int8", "checkpoint=run/model/model_int8.onnx")):
        evaluate(evaluation(*key.split(), f"run_dir=results_{i}"))
        measured = figures(Path(f"results_{i}"))
        assert (measured["precision"], measured["file"]) == ("int8", "model_int8.onnx")
        assert measured["runtime"].endswith(" on model_int8.onnx")
        assert f"shapes val: {measured['runtime']}, int8" in capfd.readouterr().out
    evaluate(evaluation("checkpoint=run", "run_dir=float"))
    measured = figures(Path("float"))
    assert (measured["runtime"], measured["precision"], measured["file"]) == ("torch", "fp32", None)
    with pytest.raises(UserError, match="runtime=torch runs the model in fp32, but precision=int8 is an exported"):
        evaluate(evaluation("checkpoint=run", "runtime=torch", "precision=int8"))


@pytest.mark.slow
def test_a_data_set_that_is_named_again_is_the_one_of_the_run(
    trained: Trained, evaluation: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    run = trained("classification")
    evaluate(evaluation(f"checkpoint='{run.path}'", "dataset=shapes", "run_dir=same"))
    assert_close(figures(Path("same")), figures(run.path))
    assert "Data: shapes, split val, 6 images (size=64" in caplog.text
    evaluate(evaluation(f"checkpoint='{run.path}'", "dataset=shapes", "dataset.val_count=3", "run_dir=fewer"))
    assert figures(Path("fewer"))["images"] == 3
    assert "Data: shapes, split val, 3 images (size=64" in caplog.text


@pytest.mark.slow
def test_evaluation_writes_over_nothing_but_an_earlier_evaluation(
    trained: Trained, evaluation: Callable[..., DictConfig], tmp_path: Path
) -> None:
    run = trained("classification")
    copytree(run.path, tmp_path / "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"run_dir=run holds .*, which evaluation does not write"):
        evaluate(evaluation("checkpoint=run", "run_dir=run"))
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    evaluate(evaluation("checkpoint=run", "run_dir=twice"))
    evaluate(evaluation("checkpoint=run", "dataset=shapes", "dataset.val_count=3", "run_dir=twice"))
    assert len(list(Path("twice/predictions").iterdir())) == 4
    Path("mine/predictions").mkdir(parents=True)
    Path("mine/predictions/a.png").touch()
    with pytest.raises(UserError, match=r"run_dir=mine holds predictions without the metrics\.json of an evaluation"):
        evaluate(evaluation("checkpoint=run", "run_dir=mine"))
    assert Path("mine/predictions/a.png").exists()
    Path("file").touch()
    for run_dir in ("file", "file/below"):
        with pytest.raises(UserError, match=f"^{run_dir} cannot be written .*; name another folder"):
            evaluate(evaluation("checkpoint=run", f"run_dir={run_dir}"))
