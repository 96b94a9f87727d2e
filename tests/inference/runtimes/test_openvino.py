import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.exporting.files import write
from mbv2kit.inference.runtimes import open_session
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export
from tests.exporting.models import noise, small_model

ov = pytest.importorskip("openvino")
pytest.importorskip("nncf")
SIZE = (64, 64)


@pytest.fixture(scope="module")
def network() -> ExportNetwork:
    return ExportNetwork(small_model("classification", "segmentation", depth=0.34)).eval()


@pytest.fixture(scope="module")
def exported(network: ExportNetwork, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    folder = tmp_path_factory.mktemp("openvino")
    return folder, write(network, folder, "openvino", "fp32")


def probabilities_of_torch(network: ExportNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(images))[0].numpy())


def test_outputs_have_their_names_in_the_order_of_the_export(exported: tuple[Path, Export]) -> None:
    folder, export = exported
    images = np.stack(noise(2, SIZE))
    outputs = open_session("openvino", folder, export, 1)(images)
    assert list(outputs) == ["probabilities", "mask"]
    assert (outputs["probabilities"].shape, outputs["mask"].shape) == ((2, 5), (2, 64, 64))
    turned = open_session("openvino", folder, replace(export, outputs=("mask", "probabilities")), 1)(images)
    assert list(turned) == ["mask", "probabilities"]
    for name, array in outputs.items():
        np.testing.assert_array_equal(turned[name], array)


@pytest.mark.parametrize("threads", [1, 2])
def test_float32_is_computed_in_float32(network: ExportNetwork, exported: tuple[Path, Export], threads: int) -> None:
    folder, export = exported
    images = np.stack(noise(4, SIZE))
    found = open_session("openvino", folder, export, threads)(images)["probabilities"]
    assert np.abs(found - probabilities_of_torch(network, images)).max() < 1e-5


def test_fp16_is_computed_in_the_type_that_the_processor_has(
    network: ExportNetwork, exported: tuple[Path, Export]
) -> None:
    if not {"BF16", "FP16"} & set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        pytest.skip("this processor has no fp16 type")
    folder, export = exported
    images = np.stack(noise(4, SIZE))
    fp16 = open_session("openvino", folder, replace(export, precision="fp16"), 1)(images)["probabilities"]
    assert 1e-4 < np.abs(fp16 - probabilities_of_torch(network, images)).max() < 0.2


def test_outputs_survive_the_next_call(exported: tuple[Path, Export]) -> None:
    folder, export = exported
    session = open_session("openvino", folder, export, 1)
    first, second = np.stack(noise(2, SIZE, seed=1)), np.stack(noise(2, SIZE, seed=2))
    outputs = session(first)
    kept = {name: array.copy() for name, array in outputs.items()}
    others = session(second)
    for name, array in outputs.items():
        np.testing.assert_array_equal(array, kept[name])
        assert array.flags.owndata
        assert array.flags.writeable
    assert not np.array_equal(outputs["probabilities"], others["probabilities"])


def test_images_may_be_a_view_and_read_only(exported: tuple[Path, Export]) -> None:
    folder, export = exported
    session = open_session("openvino", folder, export, 1)
    view = np.stack(noise(2, (64, 128)))[:, :, ::2]
    view.flags.writeable = False
    found, expected = session(view), session(view.copy())
    for name in export.outputs:
        np.testing.assert_array_equal(found[name], expected[name])


def test_onnx_files_are_read_as_well(tmp_path: Path) -> None:
    network = ExportNetwork(small_model("classification", depth=0.34)).eval()
    export = write(network, tmp_path, "onnx", "fp32")
    images = np.stack(noise(2, SIZE))
    found = open_session("openvino", tmp_path, export, 1)(images)["probabilities"]
    np.testing.assert_allclose(found, probabilities_of_torch(network, images), atol=1e-5)


@pytest.mark.parametrize("part", ["model.xml", "model.bin"])
def test_a_truncated_file_is_reported(exported: tuple[Path, Export], tmp_path: Path, part: str) -> None:
    folder, export = exported
    for name in ("model.xml", "model.bin"):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if name == part else content)
    with pytest.raises(UserError, match=r"model\.xml is not a network that OpenVINO can read") as caught:
        open_session("openvino", tmp_path, export, 1)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_reported(exported: tuple[Path, Export], tmp_path: Path) -> None:
    folder, export = exported
    (tmp_path / "model.xml").write_bytes((folder / "model.xml").read_bytes())
    with pytest.raises(UserError, match=r"model\.xml is not a network that OpenVINO can read"):
        open_session("openvino", tmp_path, export, 1)


def test_a_missing_output_is_reported(exported: tuple[Path, Export]) -> None:
    folder, export = exported
    with pytest.raises(UserError, match="'boxes'"):
        open_session("openvino", folder, replace(export, outputs=("boxes",)), 1)


def test_openvino_comes_without_its_telemetry_and_without_torch() -> None:
    script = (
        "import sys, mbv2kit.inference.runtimes.openvino, openvino\n"
        "print([name for name in ('openvino_telemetry', 'torch', 'nncf') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
