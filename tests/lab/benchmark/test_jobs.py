from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import yaml

from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.lab.benchmark.assets import asset_table
from mbv2kit.lab.benchmark.jobs.catalog import JOBS, list_cases
from mbv2kit.lab.benchmark.jobs.models import Model, open_models
from mbv2kit.models.exports import Export, Precision, hash_of
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.run_folder import RunFolder
from mbv2kit.models.spec import ModelSpec
from tests.models.test_exports import ONE

EXPORTS: dict[str, Precision] = {"model.onnx": "fp32", "model_int8.onnx": "int8"}


def test_a_case_notes_the_published_file_that_it_runs_without(tmp_path: Path) -> None:
    (tmp_path / "deeplabv3_mnv2_pascal_quant.tflite").touch()
    jobs = ["classification", "segmentation"]
    for folder, expected in ((tmp_path, ["batch 1", "batch 32"]), (None, ["batch 1", "batch 32", "513"])):
        cases = list_cases(jobs, {}, [], folder)
        assert [each.name for each in cases if any("shared=" in note for note in each.notes)] == expected


def test_the_baseline_of_every_case_is_one_of_its_competitors(tmp_path: Path) -> None:
    jobs = [job for job in JOBS if job != "memory"]
    for listed in list_cases(jobs, {}, [], tmp_path):
        names = [each.name for each in listed.competitors]
        assert listed.baseline[0] in names
        assert len(names) == len(set(names))


def test_every_library_has_a_key_for_its_interpreter(root: Path, tmp_path: Path) -> None:
    keys = yaml.safe_load((root / "conf" / "benchmark.yaml").read_text())["python"].keys()
    competitors = [each for listed in list_cases(list(JOBS), {}, [], tmp_path) for each in listed.competitors]
    libraries = {each.library for each in (*competitors, *asset_table(tmp_path).values())}
    assert libraries == keys
    needed = {name for each in competitors for name in each.assets}
    assert needed <= asset_table(tmp_path).keys()


@pytest.fixture
def run_folder(tmp_path: Path) -> RunFolder:
    """A run whose model has two exported files."""
    model = ModelFolder(RunFolder(tmp_path / "mine").model)
    spec = ModelSpec(
        backbone={"name": "mobilenet_v2"},
        heads={"classification": {"name": "classifier"}},
        class_names={"classification": ("cat", "dog")},
        input=Preprocess((32, 32)),
    )
    model.save(spec, b"")
    for file, precision in EXPORTS.items():
        (tmp_path / file).touch()
        export = Export(
            file=file,
            format="onnx",
            precision=precision,
            size=(32, 32),
            batch=None,
            outputs=("probabilities",),
            nms_options={},
            sha256=hash_of(tmp_path / file),
        )
        model.add_export(export, tmp_path)
    return RunFolder(tmp_path / "mine")


def test_a_run_its_model_folder_and_its_files_name_the_same_model(run_folder: RunFolder) -> None:
    folder = run_folder.model
    for name in (run_folder.path, folder, folder / "model.safetensors", folder / "model.json"):
        (model,) = open_models("classification", [str(name)], lambda _: 7)
        assert (model.folder, model.label, model.madds) == (folder, "", 7)
        assert [export.file for export in model.exports] == list(EXPORTS)
    (model,) = open_models("classification", [str(folder / "model_int8.onnx")], lambda _: None)
    assert [export.file for export in model.exports] == ["model_int8.onnx"]


def test_several_models_have_labels_that_tell_them_apart(run_folder: RunFolder) -> None:
    run, folder = str(run_folder.path), str(run_folder.model)

    def labels(*names: str) -> list[str]:
        return [model.label for model in open_models("classification", names, lambda _: None)]

    other = run_folder.path.with_name("other") / "model"
    copytree(folder, other)
    assert labels(run, str(other)) == ["mine ", "model "]
    assert labels(folder, str(other)) == [f"{folder} ", f"{other} "]


def test_every_model_keeps_its_rows_and_says_its_size(run_folder: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model"
    copytree(run_folder.model, other)
    names = [str(run_folder.model), str(other)]
    models = open_models("classification", names, lambda _: None)
    for listed in list_cases(["classification", "files"], {"classification": models}, [["runtime=auto"]], None):
        rows = [each.name for each in listed.competitors]
        assert len(rows) == len(set(rows))
        if listed.name != "peak":
            assert [name for name in names if any(row.startswith(f"{name} ") for row in rows)] == names
        assert "224" not in listed.title
        if listed.name == "batch 1":
            assert f"{other}: mobilenet_v2 at 32 x 32." in listed.notes
    with pytest.raises(UserError, match=r"models\.classification: .*mine is a model that is named before"):
        open_models("classification", [str(run_folder.model), str(run_folder.path)], lambda _: None)


def test_a_published_detector_is_compared_with_the_models_converted_from_it(tmp_path: Path) -> None:
    for file in ("ssd_mobilenet_v2_oidv4_fp16.tflite", "ssdlite_mobilenet_v2_pedestrian.pb"):
        (tmp_path / file).touch()
    with_nms = replace(ONE, file="model_nms.onnx", outputs=("detections",))
    model = Model(tmp_path, "", "", (ONE, with_nms), None, "ssdlite_mobilenet_v2_pedestrian.pb")
    cases = {each.name: each for each in list_cases(["published_detectors"], {"detection": [model]}, [], tmp_path)}
    rows = {name: [each.name for each in case.competitors] for name, case in cases.items()}
    assert rows == {
        "ssd_mobilenet_v2_oidv4_fp16.tflite": ["LiteRT"],
        "ssdlite_mobilenet_v2_pedestrian.pb": [
            "OpenCV dnn",
            "model.onnx in onnxruntime",
            "model.onnx in openvino",
        ],
    }
    (tmp_path / "ssd_mobilenet_v2_oidv4_fp16.tflite").unlink()
    (case,) = list_cases(["published_detectors"], {}, [], tmp_path)
    assert case.name == "ssdlite_mobilenet_v2_pedestrian.pb"
