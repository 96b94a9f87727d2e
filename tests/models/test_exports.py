import json
from dataclasses import replace
from pathlib import Path

import pytest

from mbv2kit.errors import UserError
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.models.exports import Export, add_export, export_name, files_of, hash_of, read_exports, write_exports
from mbv2kit.models.vision_model import VisionModel
from tests.exporting.models import saved, small_model

ONE = Export(
    file="model.onnx",
    format="onnx",
    precision="fp32",
    size=(64, 48),
    batch=None,
    outputs=("boxes", "scores"),
    nms_options=NmsOptions(0.05, 0.5, 100),
    sha256="0" * 64,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(small_model("classification"), tmp_path)


def test_what_was_listed_is_read_back(folder: Path) -> None:
    assert read_exports(folder) == ()
    (folder / "model.onnx").write_bytes(b"x")
    (folder / "model_int8.onnx").write_bytes(b"y")
    other = replace(ONE, file="model_int8.onnx", precision="int8", batch=4, nms_options=None)
    add_export(folder, ONE)
    add_export(folder, other)
    assert read_exports(folder) == (ONE, other)
    again = replace(ONE, sha256="1" * 64)
    add_export(folder, again)
    assert read_exports(folder) == (other, again)
    assert VisionModel.load(folder).class_names["classification"][0] == "cat"


def test_a_file_that_is_gone_is_not_listed(folder: Path) -> None:
    write_exports(folder, [ONE])
    assert read_exports(folder) == ()


def test_a_model_that_is_saved_anew_has_no_files_of_its_older_self(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"x")
    write_exports(folder, [ONE])
    small_model("classification").save(folder)
    assert read_exports(folder) == ()


@pytest.mark.parametrize("damage", [{"file": "model.onnx"}, {"size": 3}, "model.onnx", None])
def test_a_damaged_list_is_a_sentence(folder: Path, damage: object) -> None:
    description = folder / "model.json"
    values = json.loads(description.read_text())
    values["exports"] = damage if damage is None else [damage]
    description.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"model.json does not say what was exported: .*; export the model again."):
        read_exports(folder)


def test_names_tell_format_and_precision() -> None:
    assert export_name("onnx", "fp32") == "model.onnx"
    assert export_name("openvino", "fp16") == "model_fp16.xml"
    assert export_name("litert", "int8") == "model_int8.tflite"
    assert export_name("executorch", "fp32") == "model.pte"


def test_openvino_s_hash_is_that_of_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("graph")
    (tmp_path / "model.bin").write_text("weights")
    assert files_of(tmp_path / "model.xml") == (tmp_path / "model.xml", tmp_path / "model.bin")
    before = hash_of(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_text("others")
    assert hash_of(tmp_path / "model.xml") != before
