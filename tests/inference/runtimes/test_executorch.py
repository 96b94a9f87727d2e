from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.inference.runtimes import open_session
from mbv2kit.models.exports import Export
from mbv2kit.models.session import Session

pytest.importorskip("executorch", reason="needs the runtime: pip install 'mbv2kit[executorch]'")

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings import _C

SIZE = (4, 6)
EXPORT = Export(
    file="model.pte",
    format="executorch",
    precision="fp32",
    size=SIZE,
    batch=2,
    outputs=("mask", "probabilities"),
    nms_options={},
    sha256="",
)


class Colors(nn.Module):
    """Its mask is the negative, its probabilities are the mean color."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.bitwise_not(), images.float().mean(dim=(2, 3), keepdim=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executorch")
    example = torch.zeros((2, *SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    program = torch.export.export(Colors(), (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / EXPORT.file).write_bytes(lowered.to_executorch().buffer)
    return folder


@pytest.fixture
def session(folder: Path) -> Session:
    return open_session("executorch", folder, EXPORT, 2)


def make_images(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)


def test_outputs_have_their_names_in_the_order_of_the_file(session: Session) -> None:
    images = make_images(0)
    outputs = session(images)
    assert list(outputs) == ["mask", "probabilities"]
    assert outputs["mask"].dtype == np.uint8
    np.testing.assert_array_equal(outputs["mask"], 255 - images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(outputs["probabilities"][..., 0, 0], images.mean(axis=(1, 2)), rtol=1e-5)


def test_outputs_belong_to_the_caller(session: Session) -> None:
    first = session(make_images(0))
    kept = {name: array.copy() for name, array in first.items()}
    session(make_images(1))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


def test_threads_are_those_of_the_first_session_that_is_open(folder: Path) -> None:
    images = make_images(0)
    first = open_session("executorch", folder, EXPORT, 1)
    assert _C._threadpool_get_thread_count() == 1
    second = open_session("executorch", folder, EXPORT, 2)
    assert _C._threadpool_get_thread_count() == 1
    for name, array in first(images).items():
        np.testing.assert_array_equal(array, second(images)[name])
    del first, second
    open_session("executorch", folder, EXPORT, 2)
    assert _C._threadpool_get_thread_count() == 2


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_file_is_reported(folder: Path, tmp_path: Path, share: float) -> None:
    whole = (folder / EXPORT.file).read_bytes()
    (tmp_path / EXPORT.file).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"model\.pte is not a network that ExecuTorch can read"):
        open_session("executorch", tmp_path, EXPORT, 2)


def test_another_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / EXPORT.file).write_text("This is a letter, not a network. " * 20)
    with pytest.raises(UserError, match=r"model\.pte is not a network that ExecuTorch can read"):
        open_session("executorch", tmp_path, EXPORT, 2)
