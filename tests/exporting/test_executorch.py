from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from mbv2kit.errors import UserError
from mbv2kit.exporting.check import check, reference
from mbv2kit.exporting.executorch_rewrites import Rewritten, pad_in_convolutions
from mbv2kit.exporting.files import open_for_check, write
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import TASKS
from tests.exporting.models import noise, small_model

pytest.importorskip("executorch", reason="needs what writes .pte files: pip install 'mbv2kit[executorch]'")

from executorch.exir._serialize._program import deserialize_pte_binary

from mbv2kit.exporting.executorch import export_executorch

SIZE = (64, 64)
PIXELS = "quantized_decomposed::dequantize_per_tensor"
MASK = "quantized_decomposed::quantize_per_tensor"
# A slice that keeps everything, a squeeze, the type of a scalar.
TRIFLES = ("aten::alias_copy", "aten::squeeze_copy", "dim_order_ops::_to_dim_order_copy")


@pytest.fixture(scope="module")
def model() -> VisionModel:
    # Padded as TensorFlow does: on all sides of some maps, only at the end of others.
    return small_model(*TASKS, padding="tf_same")


@pytest.fixture(scope="module")
def exported(model: VisionModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    folder = tmp_path_factory.mktemp("executorch")
    return folder, write(ExportNetwork(model).eval(), folder, "executorch", "fp32")


def operations(path: Path) -> list[str]:
    """Lists the operations that ExecuTorch's own kernels run."""
    (plan,) = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    return [operator.name for operator in plan.operators]


def delegates(path: Path) -> list[str]:
    """Lists the backends to which a file delegates."""
    (plan,) = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    return [delegate.id for delegate in plan.delegates]


@pytest.mark.slow
def test_the_file_has_the_outputs_of_the_model(model: VisionModel, exported: tuple[Path, Export]) -> None:
    folder, export = exported
    assert export.batch == 1
    report = check(model, open_for_check(model, folder, export), export, noise(4, SIZE))
    assert report.agrees, report.findings


@pytest.mark.slow
def test_xnnpack_computes_all_but_conversions_from_and_to_bytes(exported: tuple[Path, Export]) -> None:
    folder, export = exported
    assert set(delegates(folder / export.file)) == {"XnnpackBackend"}
    assert set(operations(folder / export.file)) <= {PIXELS, MASK, *TRIFLES}


@pytest.mark.slow
def test_int8_has_weights_in_bytes_and_outputs_near_those_of_the_model(model: VisionModel, tmp_path: Path) -> None:
    network = ExportNetwork(model).eval()
    export = write(network, tmp_path, "executorch", "int8", calibration=noise(4, SIZE, seed=1))
    weights = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    assert (tmp_path / export.file).stat().st_size < 2 * weights
    images = noise(8, SIZE)
    expected = reference(model, images).outputs
    found = open_for_check(model, tmp_path, export).outputs(np.stack(images))
    for name, limit in {"probabilities": 0.1, "scores": 0.1, "boxes": 0.03}.items():
        np.testing.assert_allclose(found[name], np.concatenate([each[name] for each in expected]), atol=limit)
    # Boxes are decoded in floats.
    assert len(np.unique(found["boxes"])) > 1000
    assert set(delegates(tmp_path / export.file)) == {"XnnpackBackend"}
    assert set(operations(tmp_path / export.file)) <= {PIXELS, MASK, *TRIFLES}


@pytest.mark.slow
def test_fp16_has_nearly_the_same_outputs(tmp_path: Path) -> None:
    single = small_model("classification")
    export = write(ExportNetwork(single).eval(), tmp_path, "executorch", "fp16")
    images = noise(4, SIZE)
    expected = reference(single, images).outputs
    found = open_for_check(single, tmp_path, export).outputs(np.stack(images))
    probabilities = np.concatenate([each["probabilities"] for each in expected])
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=0.02)
    assert not np.array_equal(found["probabilities"], probabilities)


@pytest.mark.slow
def test_a_batch_has_the_outputs_of_its_images(tmp_path: Path) -> None:
    single = small_model("classification")
    export = write(ExportNetwork(single).eval(), tmp_path, "executorch", "fp32", batch=2)
    images = noise(3, SIZE)
    expected = reference(single, images).outputs
    found = open_for_check(single, tmp_path, export).outputs(np.stack(images))
    for i, each in enumerate(expected):
        np.testing.assert_allclose(found["probabilities"][i], each["probabilities"][0], atol=1e-5)


def test_a_missing_batch_size_is_refused(model: VisionModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"fixed batch size.*batch=1"):
        export_executorch(
            ExportNetwork(model).eval(), tmp_path / "model.pte", batch=None, precision="fp32", calibration=None
        )


def capture(module: nn.Module, *examples: torch.Tensor) -> GraphModule:
    captured = torch.export.export(module.eval(), examples).module()
    assert isinstance(captured, GraphModule)
    return captured


class Call(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: torch.Tensor) -> Any:
        return self.function(maps)


@pytest.mark.parametrize(
    "function",
    [
        lambda maps: maps.mean(dim=(2, 3)),
        lambda maps: maps.mean(dim=(-2, -1), keepdim=True),
        lambda maps: maps.mean(dim=1),
        lambda maps: maps.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 5, 7),
        lambda maps: maps[:, :, :1].expand(-1, -1, 5, 4),
        lambda maps: torch.linspace(0, 1, 18).view(3, 6) @ maps,
        lambda maps: maps @ torch.linspace(0, 1, 28).view(4, 7).mT.reshape(7, 4)[:4],
        lambda maps: maps @ maps.mT,
    ],
)
def test_rewrites_compute_the_same(function: Any) -> None:
    maps = torch.randn(2, 5, 6, 4)
    expected = function(maps)
    torch.testing.assert_close(Rewritten(capture(Call(function), maps))(maps), expected)


def test_the_arg_max_is_exact_and_returns_the_first_of_equals() -> None:
    maps = torch.randn(2, 21, 30, 30)
    maps[0, 3] = maps[0, 7]
    maps[:, :, :10] = maps[:, :, :10].round()
    maps[:, 1:, 20:] = maps[:, :1, 20:]
    maps[:, 5, 29] = torch.nextafter(maps[:, 0, 29], torch.tensor(torch.inf))
    rewritten = Rewritten(capture(Call(lambda maps: maps.argmax(dim=1).to(torch.uint8)), maps))
    expected = torch.from_numpy(maps.numpy().argmax(axis=1).astype(np.uint8))
    found = rewritten(maps)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)


@pytest.mark.parametrize("classes", [1, 2])
def test_the_arg_max_of_few_classes(classes: int) -> None:
    maps = torch.randn(1, classes, 8, 8)
    rewritten = Rewritten(capture(Call(lambda maps: maps.argmax(dim=1).to(torch.uint8)), maps))
    assert torch.equal(rewritten(maps), maps.argmax(dim=1).to(torch.uint8))


def test_symmetric_padding_becomes_part_of_the_convolution() -> None:
    class Padded(nn.Module):
        def __init__(self, *sides: int) -> None:
            super().__init__()
            self.sides, self.conv = sides, nn.Conv2d(3, 4, 3, stride=2, dilation=2)

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.conv(nn.functional.pad(maps, self.sides))
            return result

    maps = torch.randn(1, 3, 15, 16)
    for sides, left in (((1, 1, 2, 2), 0), ((0, 1, 0, 1), 1)):
        network = Padded(*sides)
        captured = capture(network, maps)
        pad_in_convolutions(captured)
        pads = [node for node in captured.graph.nodes if node.target is torch.ops.aten.pad.default]
        assert len(pads) == left
        torch.testing.assert_close(captured(maps), network(maps))
