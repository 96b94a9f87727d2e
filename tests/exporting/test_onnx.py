from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbv2kit.exporting.check import check, reference
from mbv2kit.exporting.files import keep, open_for_check, write
from mbv2kit.imaging.postprocess import postprocess
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS, Detections
from tests.exporting.models import noise, small_model

SIZE = (64, 64)


@pytest.fixture(scope="module")
def model() -> VisionModel:
    return small_model(*TASKS)


@pytest.fixture(scope="module")
def exported(model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    folder = tmp_path_factory.mktemp("onnx")
    return folder, write(ExportNetwork(model).eval(), folder, "onnx", "fp32")


def test_the_file_has_the_outputs_of_the_model(model: VisionModel, exported: tuple[Path, Export]) -> None:
    folder, export = exported
    report = check(model, open_for_check(model, folder, export), export, noise(4, SIZE))
    assert report.agrees, report.findings
    assert [finding.what for finding in report.findings if finding.limit] == [
        "same first class",
        next(each.what for each in report.findings if each.what.startswith("largest shift of")),
        "equal pixels",
    ]


def test_outputs_do_not_depend_on_the_batch_size(model: VisionModel, exported: tuple[Path, Export]) -> None:
    folder, export = exported
    assert export.batch is None
    session = open_for_check(model, folder, export)
    images = np.stack(noise(5, SIZE))
    together = session.outputs(images)
    for i, image in enumerate(images):
        for name, array in session.outputs(image[None]).items():
            np.testing.assert_allclose(array[0], together[name][i], rtol=1e-3, atol=1e-4)


def test_the_input_is_uint8_images(exported: tuple[Path, Export]) -> None:
    folder, export = exported
    (network_input,) = onnx.load(folder / export.file).graph.input
    assert network_input.name == "images"
    kind = network_input.type.tensor_type
    assert kind.elem_type == onnx.TensorProto.UINT8
    assert [side.dim_value for side in kind.shape.dim] == [0, 64, 64, 3]


def test_norms_and_scaling_are_in_the_weights_and_relu6_is_a_clip(exported: tuple[Path, Export]) -> None:
    folder, export = exported
    kinds = [node.op_type for node in onnx.load(folder / export.file).graph.node]
    assert "BatchNormalization" not in kinds
    first = kinds.index("Conv")
    assert sorted(kinds[:first]) == ["Cast", "Sub", "Transpose"]
    assert kinds.count("Clip") >= 35
    assert "Resize" not in kinds


def test_a_fixed_batch_size_is_kept(model: VisionModel, tmp_path: Path) -> None:
    export = write(ExportNetwork(small_model("classification")).eval(), tmp_path, "onnx", "fp32", batch=2)
    kind = onnx.load(tmp_path / export.file).graph.input[0].type.tensor_type
    assert kind.shape.dim[0].dim_value == 2
    single = small_model("classification")
    deployed = open_for_check(single, tmp_path, export)
    # Five images run in batches of two, the last with a copy of itself.
    images = noise(5, SIZE)
    expected = reference(single, images)
    found = deployed.outputs(np.stack(images))["probabilities"]
    np.testing.assert_allclose(found, np.concatenate([e["probabilities"] for e in expected.outputs]), atol=1e-5)


def test_suppression_in_the_graph_gives_the_boxes_of_postprocessing(tmp_path: Path) -> None:
    model = small_model("detection")
    network = ExportNetwork(model).eval()
    inside = write(network, tmp_path, "onnx", "fp32", batch=1, nms=True)
    assert inside.outputs == ("detections",)
    images = noise(3, SIZE)
    assert check(model, open_for_check(model, tmp_path, inside), inside, images).agrees
    outputs = open_for_check(model, tmp_path, inside).outputs(images[0][None])
    assert outputs["detections"].shape == (1, 100, 6)
    (prediction,) = postprocess("detection", outputs, SIZE)
    assert isinstance(prediction, Detections)
    assert 0 < len(prediction.boxes) <= 100
    assert prediction.boxes.min() >= 0
    assert prediction.boxes.max() <= 64
    assert np.all(np.diff(prediction.scores) <= 0)
    assert prediction.scores.min() > 0.05


def test_a_kept_file_is_listed_once_and_opens_from_the_folder(
    model: VisionModel, exported: tuple[Path, Export], tmp_path: Path
) -> None:
    scratch, export = exported
    for _ in range(2):
        keep(export, scratch, tmp_path / "model", model.spec)
    assert ModelFolder(tmp_path / "model").read_exports() == (export,)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.onnx"]
    partial(open_for_check, model)(tmp_path / "model", export)
