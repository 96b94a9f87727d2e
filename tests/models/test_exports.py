import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mbv2kit.errors import UserError
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.models.exports import Export, export_name, files_of, hash_of
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.vision_model import VisionModel
from tests.exporting.models import saved, small_model

ONE = Export(
    file="model.onnx",
    format="onnx",
    precision="fp32",
    size=(64, 48),
    batch=None,
    outputs=("boxes", "scores"),
    nms_options={"detection": NmsOptions(0.05, 0.5, 100)},
    sha256="0" * 64,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(small_model("classification"), tmp_path)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder with what an exporter wrote."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"x")
    (folder / "model_int8.onnx").write_bytes(b"y")
    return folder


def test_what_was_listed_is_read_back(folder: Path, scratch: Path) -> None:
    model = ModelFolder(folder)
    assert model.read_exports() == ()
    other = replace(ONE, file="model_int8.onnx", precision="int8", batch=4, nms_options={})
    model.add_export(ONE, scratch)
    model.add_export(other, scratch)
    assert model.read_exports() == (ONE, other)
    assert (folder / "model_int8.onnx").read_bytes() == b"y"
    again = replace(ONE, sha256="1" * 64)
    model.add_export(again, scratch)
    assert model.read_exports() == (other, again)
    assert VisionModel.load(folder).class_names["classification"][0] == "cat"


def test_a_file_that_is_gone_is_not_listed(folder: Path, scratch: Path) -> None:
    ModelFolder(folder).add_export(ONE, scratch)
    (folder / "model.onnx").unlink()
    assert ModelFolder(folder).read_exports() == ()


def test_a_model_that_is_saved_with_other_weights_has_no_files_of_its_older_self(folder: Path, scratch: Path) -> None:
    ModelFolder(folder).add_export(ONE, scratch)
    model = VisionModel.load(folder)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save(folder)
    assert ModelFolder(folder).read_exports() == ()


def test_a_model_that_is_saved_again_keeps_its_exported_files(folder: Path, scratch: Path) -> None:
    ModelFolder(folder).add_export(ONE, scratch)
    VisionModel.load(folder).save(folder)
    assert ModelFolder(folder).read_exports() == (ONE,)


def test_a_folder_of_exported_files_needs_no_weights(folder: Path, scratch: Path, tmp_path: Path) -> None:
    bare = ModelFolder(tmp_path / "bare")
    bare.describe(ModelFolder(folder).read_spec())
    bare.add_export(ONE, scratch)
    assert bare.read_exports() == (ONE,)
    assert bare.read_spec() == ModelFolder(folder).read_spec()
    assert sorted(path.name for path in bare.path.iterdir()) == ["model.json", "model.onnx"]


def test_a_failed_write_leaves_the_description_of_before(
    folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ModelFolder(folder).add_export(ONE, scratch)
    with pytest.raises(OSError, match="No space left"):
        small_model("classification").save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("damage", [{"file": "model.onnx"}, {"size": 3}, "model.onnx", None])
def test_a_damaged_list_is_a_sentence(folder: Path, damage: object) -> None:
    description = folder / "model.json"
    values = json.loads(description.read_text())
    values["exports"] = damage if damage is None else [damage]
    description.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"model.json has an invalid list of exports: .*; export the model again."):
        ModelFolder(folder).read_exports()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "../model.onnx"}, "file must be text .* without a folder, got '../model.onnx'"),
        ({"file": "/etc/model.onnx"}, "file must be text .* without a folder, got '/etc/model.onnx'"),
        ({"file": ".."}, "file must be text"),
        ({"file": "model.tflite"}, r"file must end in \.onnx, got 'model.tflite'"),
        ({"file": 5}, "file must be text .* got 5"),
        ({"format": "exe"}, "format must be one of onnx, openvino, litert, executorch, got 'exe'"),
        ({"precision": None}, "precision must be one of fp32, fp16, int8, got null"),
        ({"batch": -1}, "batch must be a whole number from 1 to 4,096, or null, got -1"),
        ({"batch": 0}, "batch must be a whole number"),
        ({"batch": True}, "batch must be a whole number"),
        ({"size": [64]}, "size must be a list of 2"),
        ({"size": [64, 10**9]}, "size must be a list of 2, each a whole number from 1 to 8,192"),
        ({"outputs": []}, "outputs must be a list"),
        ({"outputs": "boxes"}, "outputs must be a list"),
        ({"selection": {"nms_iou": 0.5}}, "'selection.score_threshold' is missing"),
        ({"selection": 3}, "selection must be set by its keys"),
        ({"sha256": "0"}, "sha256 must be text of 64 hexadecimal digits"),
        ({"other": 1}, "unexpected keyword argument 'other'"),
    ],
)
def test_a_value_of_the_wrong_kind_in_the_list_is_a_sentence(
    folder: Path, scratch: Path, changes: dict[str, object], message: str
) -> None:
    ModelFolder(folder).add_export(ONE, scratch)
    description = folder / "model.json"
    values = json.loads(description.read_text())
    values["exports"][0] |= changes
    description.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"model.json has an invalid list of exports: .*{message}") as found:
        ModelFolder(folder).read_exports()
    assert ".;" not in str(found.value)


def test_a_link_out_of_the_folder_is_refused(folder: Path, scratch: Path) -> None:
    ModelFolder(folder).add_export(ONE, scratch)
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(scratch / "model_int8.onnx")
    with pytest.raises(UserError, match=r"model\.onnx is a link that leads out of its model folder"):
        ModelFolder(folder).read_exports()


def test_the_cache_of_the_hub_may_link_to_its_blobs(folder: Path, scratch: Path, tmp_path: Path) -> None:
    ModelFolder(folder).add_export(ONE, scratch)
    snapshot = tmp_path / "models--me--cats" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--me--cats" / "blobs").mkdir()
    for name in ("model.json", "model.onnx"):
        blob = tmp_path / "models--me--cats" / "blobs" / f"of_{name}"
        blob.write_bytes((folder / name).read_bytes())
        (snapshot / name).symlink_to(blob)
    assert ModelFolder(snapshot).read_exports() == (ONE,)


def test_another_file_than_the_one_that_was_exported_is_told(folder: Path, scratch: Path) -> None:
    model, export = ModelFolder(folder), replace(ONE, sha256=hash_of(scratch / "model.onnx"))
    model.add_export(export, scratch)
    model.check_export(export)
    (folder / "model.onnx").write_bytes(b"z")
    with pytest.raises(UserError, match=r"model\.onnx is not the file that model\.json lists: its SHA-256 differs"):
        model.check_export(export)


def test_names_tell_format_and_precision() -> None:
    assert export_name("onnx", "fp32") == "model.onnx"
    assert export_name("openvino", "fp16") == "model_fp16.xml"
    assert export_name("litert", "int8") == "model_int8.tflite"
    assert export_name("executorch", "fp32") == "model.pte"
    assert export_name("onnx", "fp32", nms=True) == "model_nms.onnx"


def test_openvino_s_hash_is_that_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("graph")
    (tmp_path / "model.bin").write_text("weights")
    assert files_of(tmp_path / "model.xml") == (tmp_path / "model.xml", tmp_path / "model.bin")
    before = hash_of(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_text("others")
    assert hash_of(tmp_path / "model.xml") != before
