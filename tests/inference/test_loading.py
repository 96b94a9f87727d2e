from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mbv2kit.errors import UserError
from mbv2kit.exporting.check import reference
from mbv2kit.exporting.files import keep, write
from mbv2kit.imaging.preprocess import Placement
from mbv2kit.inference.loading import Request, load
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import hash_of
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Classification
from tests.exporting.models import noise, saved, small_model

SIZE = (64, 64)


@pytest.fixture(scope="module")
def model() -> VisionModel:
    return small_model("classification")


@pytest.fixture(scope="module")
def folder(model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with an ONNX file."""
    path = saved(model, tmp_path_factory.mktemp("model"))
    scratch = tmp_path_factory.mktemp("scratch")
    keep(write(ExportNetwork(model).eval(), scratch, "onnx", "fp32"), scratch, path, model.spec)
    return path


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MBV2KIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def threads() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def request(folder: Path, **keys: object) -> Request:
    return Request(checkpoint=str(folder), **keys)  # type: ignore[arg-type]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("keys", [{"runtime": "onnxruntime"}, {"runtime": "torch"}, {"tta": "multiscale_flip"}])
def test_every_way_to_run_a_model_has_the_same_face(folder: Path, keys: dict[str, str]) -> None:
    loaded = load(request(folder, **keys))
    assert loaded.folder == ModelFolder(folder)
    assert loaded.predictor.spec.class_names["classification"][0] == "cat"
    assert loaded.predictor.preprocess.size == SIZE
    images = np.stack(noise(3, SIZE))
    placement = Placement((128, 32), SIZE)
    for predictor in (loaded.predictor, loaded.predictor.copy()):
        seen = predictor.predict_inputs(images, [placement] * 3)
        assert len(seen) == 3
        assert isinstance(seen[0]["classification"], Classification)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_the_answers_are_the_model_s(folder: Path, model: VisionModel, runtime: str) -> None:
    images = noise(3, SIZE)
    loaded = load(request(folder, runtime=runtime))
    expected = np.concatenate([each["probabilities"] for each in reference(model, images).outputs])
    np.testing.assert_allclose(loaded.predictor.outputs(np.stack(images))["probabilities"], expected, atol=1e-5)


def test_the_exported_file_is_what_runs_unless_torch_is_wished_for(folder: Path) -> None:
    assert load(request(folder, runtime="onnxruntime")).predictor.runtime == "onnxruntime on model.onnx"
    assert load(request(folder / "model.onnx", runtime="onnxruntime")).predictor.runtime == "onnxruntime on model.onnx"
    automatic = load(request(folder))
    assert automatic.predictor.runtime.endswith(" on model.onnx")
    assert automatic.notes[0].startswith(f"Runtime: {automatic.predictor.runtime}, fp32 (")


@pytest.mark.usefixtures("threads")
def test_without_a_file_torch_runs_it_and_says_what_would_be_faster(model: VisionModel, tmp_path: Path) -> None:
    folder = saved(model, tmp_path / "bare")
    loaded = load(request(folder))
    assert loaded.predictor.runtime == "torch"
    assert f"mbv2kit export checkpoint={folder}" in loaded.notes[0]


def test_a_precision_that_was_not_exported_is_a_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no exported file for precision=int8 \(exported files: model.onnx \(fp32\)\)"):
        load(request(folder, precision="int8"))
    with pytest.raises(UserError, match=r"no exported file for runtime=litert .* mbv2kit export"):
        load(request(folder, runtime="litert"))


def test_of_several_precisions_float32_is_taken_unless_another_is_named(
    folder: Path, model: VisionModel, tmp_path: Path
) -> None:
    copy, scratch = saved(model, tmp_path / "both"), tmp_path / "scratch"
    data = (folder / "model.onnx").read_bytes()
    (export,) = ModelFolder(folder).read_exports()
    scratch.mkdir()
    for name in ("model.onnx", "model_int8.onnx"):
        (scratch / name).write_bytes(data)
    for each in (replace(export, file="model_int8.onnx", precision="int8"), export):
        ModelFolder(copy).add_export(each, scratch)
    for keys, expected in (
        ({}, "model.onnx"),
        ({"precision": "int8"}, "model_int8.onnx"),
        ({"precision": "fp32"}, "model.onnx"),
    ):
        assert load(request(copy, runtime="onnxruntime", **keys)).predictor.runtime == f"onnxruntime on {expected}"
    by_name = load(request(copy / "model_int8.onnx", runtime="onnxruntime"))
    assert by_name.predictor.runtime == "onnxruntime on model_int8.onnx"
    (copy / "model.onnx").unlink()
    assert load(request(copy, runtime="onnxruntime")).predictor.runtime == "onnxruntime on model_int8.onnx"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"runtime": "onnx"}, "runtime 'onnx' is unknown. Did you mean 'onnxruntime'?"),
        ({"precision": "int4"}, "precision 'int4' is unknown"),
        ({"threads": 0}, "threads must be a whole number from 1 up"),
        ({"compile": True}, "compile=true is for runtime=torch"),
        ({"runtime": "torch", "compile": True, "tta": "multiscale_flip"}, "compile=true is for runtime=torch"),
        ({"runtime": "openvino", "tta": "multiscale_flip"}, "runtime=openvino runs an exported network as it is"),
        ({"precision": "int8", "tta": "multiscale_flip"}, "precision=int8 runs an exported network as it is"),
        ({"runtime": "torch", "precision": "int8"}, "runtime=torch runs the model in fp32, but precision=int8 is an"),
        ({"runtime": None}, "runtime 'None' is unknown"),
        ({"memory_budget": "1MB", "tta": "multiscale_flip"}, "memory_budget runs one view of an image"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        Request(**keys)  # type: ignore[arg-type]


def test_a_runtime_that_is_not_installed_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbv2kit.inference.runtimes.base.Runtime.version", None)
    with pytest.raises(UserError, match="runtime=onnxruntime is not installed; run: pip install onnxruntime"):
        load(request(folder, runtime="onnxruntime"))
    with pytest.raises(UserError, match=r"None of the runtimes that read the files .*: pip install onnxruntime or pip"):
        load(request(folder))


def test_a_damaged_file_is_a_sentence(folder: Path, model: VisionModel, tmp_path: Path) -> None:
    copy = saved(model, tmp_path / "damaged")
    (export,) = ModelFolder(folder).read_exports()
    ModelFolder(copy).add_export(export, folder)
    (copy / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.onnx is not the file that model\.json lists: its SHA-256 differs"):
        load(request(copy, runtime="onnxruntime"))
    ModelFolder(copy).add_export(replace(export, sha256=hash_of(copy / "model.onnx")), copy)
    with pytest.raises(UserError, match=r"model\.onnx is not a network that ONNX Runtime can read"):
        load(request(copy, runtime="onnxruntime"))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("as_trained", [False, True])
def test_a_file_that_is_named_is_what_runs(folder: Path, as_trained: bool) -> None:
    runtime = None if as_trained else "auto"
    loaded = load(request(folder / "model.onnx", runtime=runtime, as_trained=as_trained))
    assert loaded.export is not None
    assert loaded.export.file == "model.onnx"
    with pytest.raises(UserError, match=r"has no exported file for model_int8.onnx \(exported files: model.onnx"):
        load(request(folder / "model_int8.onnx", runtime=runtime, as_trained=as_trained))
    with pytest.raises(UserError, match=r"has no exported file for model.onnx precision=int8"):
        load(request(folder / "model.onnx", runtime=runtime, precision="int8", as_trained=as_trained))
    for asked, export in (
        ({"precision": "int8"}, "precision=int8"),
        ({"precision": "fp16"}, "format=openvino precision=fp16"),
        ({"runtime": "litert"}, "format=litert"),
        ({"runtime": "executorch", "precision": "fp16"}, "format=executorch precision=fp16"),
    ):
        with pytest.raises(UserError, match=rf"make one with mbv2kit export checkpoint={folder} {export}\.$"):
            load(request(folder, **{"runtime": runtime, **asked}, as_trained=as_trained))
    for keys in ({"runtime": "torch"}, {"tta": "multiscale_flip"}, {"output_stride": 16}):
        with pytest.raises(UserError, match=r"checkpoint=.*model\.onnx (is an exported|runs an exported) network"):
            request(folder / "model.onnx", as_trained=as_trained, **keys)


@pytest.mark.usefixtures("threads")
def test_evaluation_takes_torch_unless_a_file_or_precision_is_named(folder: Path) -> None:
    assert load(request(folder, runtime=None, as_trained=True)).export is None
    loaded = load(request(folder, runtime=None, precision="fp32", as_trained=True))
    assert loaded.export is not None
    assert loaded.predictor.runtime.endswith(" on model.onnx")


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_a_sentence(tmp_path: Path, value: float) -> None:
    model = small_model("segmentation")
    with torch.no_grad():
        next(model.backbone.parameters()).view(-1)[3] = value
    with pytest.raises(UserError, match=r"damaged: the weights 'backbone\..*' hold NaN or infinite values"):
        load(request(saved(model, tmp_path / "damaged"), runtime="torch"))
