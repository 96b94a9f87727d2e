"""Model repositories: ``config.pbtxt`` read by protobuf, with Triton's own grammar, and compared with the files."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mbv2kit.errors import UserError
from mbv2kit.exporting.files import open_for_check, write
from mbv2kit.exporting.triton import check_repository, config_text, lay_repository
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export
from mbv2kit.models.vision_model import VisionModel
from tests.exporting.models import CLASSES, small_model

pytest.importorskip("onnxscript")
try:
    grammar = import_module("tritonclient.grpc.model_config_pb2")
except (ImportError, RuntimeError) as error:  # the latter where protobuf is older than what it was made with
    pytest.skip(f"needs the grammar of tritonclient: {error}", allow_module_level=True)
text_format = pytest.importorskip("google.protobuf.text_format")

_TYPES = {"TYPE_UINT8": onnx.TensorProto.UINT8, "TYPE_FP32": onnx.TensorProto.FLOAT}


def parse(text: str) -> Any:
    return text_format.Parse(text, grammar.ModelConfig())


def laid(model: VisionModel, folder: Path, output: Path, **options: Any) -> Export:
    """Exports a model to ONNX and lays it."""
    folder.mkdir()
    written = write(ExportNetwork(model).eval(), folder, "onnx", "fp32", **options)
    outputs = open_for_check(model, folder, written).outputs(np.zeros((1, *written.size, 3), np.uint8))
    assert lay_repository(output, written, folder, model.spec, outputs) == output / "1" / "model.onnx"
    return written


@pytest.fixture(scope="module")
def model() -> VisionModel:
    return small_model("classification", "detection", "segmentation", depth=0.34)


def sides(value: onnx.ValueInfoProto) -> list[int]:
    """Returns the sides of a tensor; -1 is any number."""
    return [side.dim_value if side.HasField("dim_value") else -1 for side in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    ("batch", "nms", "outputs"),
    [
        (None, False, ["probabilities", "boxes", "scores", "mask"]),
        pytest.param(2, False, ["probabilities", "boxes", "scores", "mask"], marks=pytest.mark.slow),
        pytest.param(1, True, ["probabilities", "mask", "detections"], marks=pytest.mark.slow),
    ],
)
def test_the_configuration_is_that_of_the_file(
    model: VisionModel, tmp_path: Path, batch: int | None, nms: bool, outputs: list[str]
) -> None:
    output = tmp_path / "repository" / "all three"
    written = laid(model, tmp_path / "scratch", output, batch=batch, nms=nms)
    config = parse((output / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.default_model_filename) == ("all three", "onnxruntime", "model.onnx")
    assert config.max_batch_size == (8 if batch is None else 0)
    assert config.HasField("dynamic_batching") == (batch is None)
    graph = onnx.load(str(output / "1" / "model.onnx")).graph
    files, described = [*graph.input, *graph.output], [*config.input, *config.output]
    assert [each.name for each in described] == [each.name for each in files] == ["images", *outputs]
    for ours, theirs in zip(described, files, strict=True):
        shape = [-1, *ours.dims] if batch is None else list(ours.dims)
        assert _TYPES[grammar.DataType.Name(ours.data_type)] == theirs.type.tensor_type.elem_type
        # ONNX's shapes may leave out how many boxes there are, and nothing else.
        for side, in_file in zip(shape, sides(theirs), strict=True):
            assert side == in_file or (in_file == -1 and ours.name == "detections")
    labels = {each.name: each.label_filename for each in config.output if each.label_filename}
    assert labels == {"probabilities": "classification_labels.txt"}
    for head, names in model.class_names.items():
        assert (output / f"{head}_labels.txt").read_text().splitlines() == list(names)
    assert sorted(path.name for path in output.iterdir() if path.suffix != ".txt") == ["1", "config.pbtxt"]
    # Clients learn from it how to prepare images and to suppress boxes.
    known = json.loads(config.parameters["input"].string_value)
    assert (known["size"], known["resize"]) == ([64, 64], "stretch")
    options = json.loads(config.parameters["nms_options"].string_value)
    assert options["nms_iou"] == written.nms_options["detection"].nms_iou


@pytest.mark.parametrize("name", ["plain", 'a "b" \\c', "größe\n\x00\x7f", "日本", "\\042", "'"])
def test_any_name_survives(model: VisionModel, name: str) -> None:
    export = Export(
        file="model.xml",
        format="openvino",
        precision="fp32",
        size=(4, 6),
        batch=None,
        outputs=("probabilities",),
        nms_options={},
        sha256="0" * 64,
    )
    outputs = {"probabilities": np.zeros((1, len(CLASSES["classification"])), np.float32)}
    config = parse(config_text(name, export, model.spec, outputs))
    assert config.name == name
    assert (config.backend, config.default_model_filename) == ("openvino", "model.xml")
    assert [list(each.dims) for each in (*config.input, *config.output)] == [[4, 6, 3], [5]]


@pytest.mark.slow
def test_openvino_reads_what_is_laid_for_it(tmp_path: Path) -> None:
    ov = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    model = small_model("classification", depth=0.34)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    written = write(ExportNetwork(model).eval(), scratch, "openvino", "fp16")
    outputs = open_for_check(model, scratch, written).outputs(np.zeros((1, *written.size, 3), np.uint8))
    file = lay_repository(tmp_path / "cats", written, scratch, model.spec, outputs)
    assert sorted(path.name for path in file.parent.iterdir()) == ["model.bin", "model.xml"]
    config = parse((tmp_path / "cats" / "config.pbtxt").read_text())
    network = ov.Core().read_model(file)
    (images,), (probabilities,) = network.inputs, network.outputs
    shape = [side.get_length() for side in list(images.partial_shape)[1:]]
    assert (config.input[0].name, list(config.input[0].dims)) == (images.any_name, shape)
    assert config.output[0].name == probabilities.any_name


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_there_is_not_replaced(tmp_path: Path, there: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="exists already; name a new folder, REPOSITORY/NAME"):
        check_repository(tmp_path / there)
    check_repository(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_repository(tmp_path / "empty")
