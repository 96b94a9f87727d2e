"""The Python interface does what the command line does."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image as PillowImage

import mbv2kit
from mbv2kit import api
from mbv2kit.cli.config import compose_config
from mbv2kit.imaging.images import decode
from mbv2kit.inference.run import infer
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.structures import TASKS, Task
from tests.processes import run_python

pytestmark = pytest.mark.usefixtures("clean_process")

Trained = Callable[[str], RunFolder]
TINY: dict[str, Any] = {
    "dataset": {"name": "shapes", "size": 64, "train_count": 8, "val_count": 4},
    "input": {"size": (32, 32)},
    "backbone": {"width": 0.35},
    "loader": {"batch_size": 4, "workers": 0},
    "trainer": {"max_epochs": 1, "progress_bar": False},
    "export": False,
}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs the test in an empty folder with three images, of which the second is none."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, seed in (("a.png", 0), ("c.jpg", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        PillowImage.fromarray(pixels).save(folder / name)
    (folder / "b.png").write_text("no image")
    return folder


# The module.


def test_importing_mbv2kit_imports_no_large_library() -> None:
    found = run_python("import sys, mbv2kit; dir(mbv2kit); print(*sys.modules)").split()
    assert not {"torch", "cv2", "numpy", "PIL", "hydra", "omegaconf", "lightning", "rich"} & set(found)


def test_the_name_of_a_function_is_no_module() -> None:
    # Importing a submodule of a function's name would replace the function.
    assert run_python("import mbv2kit.exporting.run, mbv2kit; print(callable(mbv2kit.export))") == "True\n"
    for name in mbv2kit.__all__:
        assert not (Path(mbv2kit.__file__).parent / name).exists()
        assert not (Path(mbv2kit.__file__).parent / f"{name}.py").exists()


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(mbv2kit.__all__) == mbv2kit.__all__
    assert {*mbv2kit.__all__, "__version__"} <= set(dir(mbv2kit))
    for name in mbv2kit.__all__:
        assert getattr(mbv2kit, name).__doc__
    with pytest.raises(AttributeError, match="module 'mbv2kit' has no attribute 'lod'"):
        mbv2kit.lod  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_what_is_there() -> None:
    text = Path(mbv2kit.__file__).read_text(encoding="utf-8")
    block = text.partition("if TYPE_CHECKING:\n")[2].partition("\n__version__")[0]
    namespace: dict[str, Any] = {}
    exec("\n".join(line.removeprefix("    ") for line in block.splitlines()), namespace)
    assert {name: namespace[name] for name in mbv2kit.__all__} == {
        name: getattr(mbv2kit, name) for name in mbv2kit.__all__
    }


# Models.


def test_the_lists_are_those_of_the_registries() -> None:
    assert {"mobilenet_v2", "vgg16"} <= set(mbv2kit.list_backbones())
    assert {"classifier", "ssdlite", "deeplab_v3"} <= set(mbv2kit.list_heads())
    assert {"coco", "voc", "folder", "shapes"} <= set(mbv2kit.list_datasets())


def test_a_model_is_the_one_that_training_builds() -> None:
    model = mbv2kit.create_model("mobilenet_v2", "ssdlite", ["cell", "worm"], width=0.5, input_size=(96, 128))
    assert model.spec.backbone["width"] == 0.5
    assert model.preprocess.size == (96, 128)
    assert model.preprocess.resize == "stretch"
    assert model.class_names == {"detection": ("cell", "worm")}
    assert model(torch.zeros(2, 3, 96, 128, dtype=torch.uint8))["detection"]
    # The task sets the output stride.
    segmentation = mbv2kit.create_model("mobilenet_v2", "deeplab_v3", 3, backbone_norm_momentum=0.25, mean=[1, 2, 3])
    assert segmentation.spec.backbone["output_stride"] == 16
    assert segmentation.spec.backbone["norm_momentum"] == 0.25
    assert segmentation.spec.heads["segmentation"]["norm_momentum"] != 0.25
    assert segmentation.spec.mean == (1, 2, 3)
    assert segmentation.class_names == {"segmentation": ("class 0", "class 1", "class 2")}


def test_a_model_that_was_created_can_be_saved_and_loaded(tmp_path: Path) -> None:
    model = mbv2kit.create_model("mobilenet_v2", "classifier", ["cat", "dog"], width=0.35, input_size=(32, 32))
    model.save(tmp_path / "model")
    result = mbv2kit.load(tmp_path / "model")(np.zeros((40, 50, 3), dtype=np.uint8))
    assert sorted(result.labels) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        (("mobilenet_v9", "ssdlite", 1), {}, r"There is no backbone 'mobilenet_v9'\. Did you mean 'mobilenet_v\d'"),
        (("mobilenet_v2", "sdlite", 1), {}, r"There is no head 'sdlite'\. Did you mean 'ssdlite'"),
        (("mobilenet_v2", "ssdlite", 1), {"widht": 1}, r"no key 'widht'\. Did you mean 'width'"),
        (("mobilenet_v2", "ssdlite", 1), {"norm_momentum": 1}, "write backbone_norm_momentum or head_norm_momentum"),
        (("mobilenet_v2", "ssdlite", 1), {"width": "wide"}, r"backbone\.width must be a number"),
        (("mobilenet_v2", "ssdlite", 1), {"width": -1.0}, "width"),
        (("mobilenet_v2", "ssdlite", 0), {}, "classes must be a list of names, or how many .* got 0"),
        (("mobilenet_v2", "ssdlite", "cell"), {}, "classes must be a list of names, .* got 'cell'"),
        (("mobilenet_v2", "ssdlite", [1]), {}, r"classes must be a list of names, .* got \[1\]"),
    ],
)
def test_a_wrong_part_is_refused_in_a_sentence(parts: tuple[Any, Any, Any], options: Any, message: str) -> None:
    with pytest.raises(mbv2kit.UserError, match=message):
        mbv2kit.create_model(*parts, **options)


# Predictions.


def lines_of(root: Path, *overrides: str, images: list[str]) -> list[dict[str, Any]]:
    config = compose_config(root / "conf", "infer", ["output=found", *overrides])
    infer(config, images)
    return [json.loads(line) for line in Path("found/predictions.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_predictions_are_those_of_the_command_line(
    root: Path, trained: Trained, photos: Path, task: Task, runtime: str
) -> None:
    run = trained(task).path
    images = [str(photos / name) for name in ("a.png", "b.png", "c.jpg")]
    keys = [f"checkpoint='{run}'", f"runtime={runtime}", "min_score=0.02", "draw_min_score=0.1"]
    expected = lines_of(root, *keys, images=images)
    predictor = mbv2kit.load(run, runtime=runtime)
    results = predictor(images, min_score=0.02)
    files = [{name: line.get(name) for name in ("mask", "drawing")} for line in expected]
    assert [result.to_dict(**written) for result, written in zip(results, files, strict=True)] == expected
    # One by one, as a whole folder, as a pattern.
    assert predictor(images[0], min_score=0.02).to_dict(**files[0]) == expected[0]
    for several in (photos, f"{photos}/*"):
        results = predictor([several], min_score=0.02)
        assert [result.to_dict(**written) for result, written in zip(results, files, strict=True)] == expected
    # Drawings and masks are the same bytes.
    for name, result in zip(("a", "c"), (results[0], results[2]), strict=True):
        assert result.save("drawing.jpg", 0.1).read_bytes() == Path(f"found/images/{name}.jpg").read_bytes()
        if task == "segmentation":
            assert result.save_mask("mask.png").read_bytes() == Path(f"found/masks/{name}.png").read_bytes()


@pytest.mark.slow
def test_values_are_those_of_the_line(trained: Trained, photos: Path) -> None:
    classes = mbv2kit.load(trained("classification").path)(photos / "a.png")
    assert [label for label, _ in classes.top()] == [row["label"] for row in classes.to_dict()["classes"]]
    objects = mbv2kit.load(trained("detection").path)(photos / "a.png", min_score=0.0)
    rows = objects.to_dict()["boxes"]
    assert len(rows) > 0
    assert [row["label"] for row in rows] == objects.labels
    np.testing.assert_allclose([row["box"] for row in rows], objects.boxes, atol=0.0051)
    np.testing.assert_allclose([row["score"] for row in rows], objects.scores, atol=1e-6)
    regions = mbv2kit.load(trained("segmentation").path)(photos / "a.png")
    assert regions.mask.shape == (60, 80)
    assert sum(regions.fractions.values()) == pytest.approx(1)


@pytest.mark.slow
def test_a_run_its_model_and_a_file_in_it_are_the_same(trained: Trained, photos: Path) -> None:
    run = trained("classification").path
    expected = mbv2kit.load(run)(photos / "a.png").to_dict()
    names = (str(run), run / "model", str(run / "model"), run / "model" / "model.onnx", mbv2kit.Training(run))
    for name in names:
        assert mbv2kit.load(name)(photos / "a.png").to_dict() == expected
    torchs = mbv2kit.load(run, runtime="torch")(photos / "a.png")
    weights = mbv2kit.load(run / "model" / "model.safetensors", runtime="torch")(photos / "a.png")
    assert torchs.to_dict() == weights.to_dict()


def test_a_model_that_is_no_name_is_refused() -> None:
    with pytest.raises(mbv2kit.UserError, match="A model is named by a path or a name, got int"):
        mbv2kit.load(3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_array_gives_what_its_file_gives(trained: Trained, photos: Path) -> None:
    predictor = mbv2kit.load(trained("classification").path)
    pixels = decode(photos / "a.png")
    expected = {**predictor(photos / "a.png").to_dict(), "image": None}
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (pixels, pixels / 255, pixels.astype(np.uint16) * 257, tensor, tensor / 255):
        assert predictor(image).to_dict() == expected
    assert predictor(pixels[:, :, ::-1], bgr=True).to_dict() == expected
    assert [result.to_dict() for result in predictor([pixels, pixels])] == [expected] * 2


@pytest.mark.slow
def test_a_predictor_says_what_it_is(trained: Trained) -> None:
    run = trained("detection").path
    assert repr(mbv2kit.load(run, runtime="onnxruntime")) == (
        "Predictor(detection of 5 classes, mobilenet_v2 + ssdlite, 64 x 64, onnxruntime on model.onnx)"
    )
    assert repr(mbv2kit.load(run, runtime="torch")).endswith("64 x 64, torch)")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": "nowhere"}, "There is no file or folder nowhere"),
        ({"model": "x", "runtime": "onxruntime"}, r"runtime 'onxruntime' is unknown\. Did you mean 'onnxruntime'"),
        ({"model": "x", "precision": "int4"}, r"precision 'int4' is unknown"),
        ({"model": "x", "threads": 0}, "threads must be a whole number from 1 up"),
        ({"model": "x", "tta": "some"}, "tta 'some' is unknown"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_of_one_sentence(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(mbv2kit.UserError, match=message):
        mbv2kit.load(**keys)


# Training, evaluation, export.


def read_config(run: Path) -> dict[str, Any]:
    """Returns the configuration of a run but its folder."""
    config = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items() if key != "run_dir"}


def test_training_is_that_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = mbv2kit.train(task="classification", run_dir="mine", **TINY)
    assert run.path == tmp_path / "mine"
    assert run.finished
    assert capsys.readouterr().out == ""
    content = json.loads((tmp_path / "mine" / "metrics.json").read_text())
    assert run.metrics == content["metrics"]
    # Not every class is in four images.
    assert any(math.isnan(scores["top1"]) for scores in run.per_class.values())
    assert set(run.per_class) == set(run.model.class_names["classification"])
    assert run.model(np.zeros((50, 40, 3), dtype=np.uint8)).size == (50, 40)
    assert not GlobalHydra.instance().is_initialized()
    # The same seed and keys give the same model on the command line.
    lines = (
        "task=classification dataset=shapes dataset.size=64 dataset.train_count=8 dataset.val_count=4 "
        "input.size=[32,32] backbone.width=0.35 loader.batch_size=4 loader.workers=0 trainer.max_epochs=1 "
        "trainer.progress_bar=false export=false run_dir=theirs"
    )
    command = [sys.executable, "-m", "mbv2kit", "train", *lines.split()]
    # The order in which threads add numbers up shows in the last digit.
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    ours, theirs = (read_config(tmp_path / name) for name in ("mine", "theirs"))
    assert ours == theirs
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("mine", "theirs")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_training_in_a_thread_leaves_the_signals_of_the_program_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    signums = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(signum) for signum in signums]
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(mbv2kit.train, task="classification", run_dir="thread", **TINY).result()
    assert run.finished
    assert mbv2kit.train(task="classification", run_dir="main", **TINY).finished
    assert [signal.getsignal(signum) for signum in signums] == before


def test_a_run_goes_on_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = mbv2kit.train(task="classification", run_dir="mine", **TINY)
    again = mbv2kit.train(resume=first.path, trainer={"max_epochs": 2})
    assert again.path == first.path
    assert len((first.path / "metrics.csv").read_text().splitlines()) == 3
    with pytest.raises(mbv2kit.UserError, match="cannot be chosen anew"):
        mbv2kit.train(resume=first.path, dataset="folder")


def test_a_run_that_was_interrupted_has_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    run = api.Training(tmp_path)
    assert not run.finished
    for name in ("metrics", "per_class", "model"):
        with pytest.raises(mbv2kit.UserError, match=r"is not finished; continue it with mbv2kit\.train\(resume="):
            getattr(run, name)


@pytest.mark.slow
def test_evaluation_gives_the_metrics_of_the_run(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = api.Training(trained("detection").path)
    capsys.readouterr()
    evaluation = mbv2kit.evaluate(checkpoint=run.path, loader={"workers": 0}, run_dir=Path("again"))
    assert evaluation.metrics == pytest.approx(run.metrics, nan_ok=True)
    assert evaluation.path == tmp_path / "again"
    assert capsys.readouterr().out == ""
    assert json.loads((evaluation.path / "metrics.json").read_text())["per_class"].keys() == evaluation.per_class.keys()
    assert evaluation.model.class_names == run.model.class_names


@pytest.mark.slow
def test_an_export_runs_without_torch(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained("classification").path
    capsys.readouterr()
    exported = mbv2kit.export(checkpoint=run, output="out", batch=1, check_pictures=2)
    assert exported.path == tmp_path / "out" / "model.onnx"
    assert exported.folder == tmp_path / "out"
    assert capsys.readouterr().out == ""
    assert exported.metrics["megabytes"] == pytest.approx(exported.path.stat().st_size / 1e6)
    assert {"milliseconds", "torch_milliseconds"} < exported.metrics.keys()
    assert exported.model.batch == 1
    code = f"import sys, mbv2kit; mbv2kit.load({str(exported.path)!r}); print('torch' in sys.modules)"
    assert run_python(code) == "False\n"


@pytest.mark.slow
def test_an_export_that_loses_too_much_is_an_error(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbv2kit.exporting.accuracy.loss", lambda *_: 0.25)
    keys = {"precision": "int8", "check_pictures": 2, "calibration_pictures": 4, "sensitive_layers": 0}
    with pytest.raises(mbv2kit.UserError, match=r"top1 falls by 0\.2500, more than max_loss=0\.01"):
        mbv2kit.export(checkpoint=trained("classification").path, output=tmp_path / "out", format="onnx", **keys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("function", "keys", "message"),
    [
        (mbv2kit.train, {"epochs": 3}, r"There is no key 'epochs'.*trainer\.max_epochs"),
        (mbv2kit.train, {"task": "detection", "dataset": "voc", "dataset.root": "nowhere"}, "nowhere"),
        (mbv2kit.evaluate, {"checkpoint": "nowhere"}, "nowhere"),
        (mbv2kit.evaluate, {"batch_size": 2}, r"loader\.batch_size"),
        (mbv2kit.export, {"checkpoint": "nowhere"}, "nowhere"),
        (
            mbv2kit.export,
            {"format": "onnxx", "checkpoint": "x"},
            "format must be one of .*, got 'onnxx'",
        ),
    ],
)
def test_a_wrong_key_is_refused_in_a_sentence(
    function: Callable[..., object], keys: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mbv2kit.UserError, match=message):
        function(**keys)
    assert list(tmp_path.iterdir()) == []
