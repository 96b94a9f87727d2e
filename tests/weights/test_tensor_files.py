from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.weights.tensor_files import kind_of, read_tensors, sha256_of
from tests.trap import Trap

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3)}


def write_torch(path: Path, content: Any = None, **options: Any) -> Path:
    torch.save(TENSORS if content is None else content, path, **options)
    return path


def write_safetensors(path: Path) -> Path:
    save_file(TENSORS, path)
    return path


def equal(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".anything"])
def test_a_file_is_known_by_its_first_bytes(tmp_path: Path, suffix: str) -> None:
    zipped = write_torch(tmp_path / f"new{suffix}")
    old = write_torch(tmp_path / f"old{suffix}", _use_new_zipfile_serialization=False)
    safe = write_safetensors(tmp_path / f"safe{suffix}")
    assert [kind_of(path) for path in (zipped, old, safe)] == ["torch", "torch", "safetensors"]
    assert all(equal(read_tensors(path)) for path in (zipped, old, safe))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": TENSORS, "epoch": 3},
        {"model": TENSORS, "args": "--lr"},
        {"model_ema": {f"module.{name}": value for name, value in TENSORS.items()}, "model": {"b": torch.zeros(1)}},
        {f"module.{name}": value for name, value in TENSORS.items()},
        {"model_ema": {"n_averaged": torch.tensor(9), **{f"module.{k}": v for k, v in TENSORS.items()}}},
    ],
    ids=["lightning", "references", "average", "parallel", "counted average"],
)
def test_the_weights_of_a_training_scripts_checkpoint_are_read(tmp_path: Path, content: Any) -> None:
    assert equal(read_tensors(write_torch(tmp_path / "a.pth", content)))


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    marker = tmp_path / "was_run"
    path = write_torch(
        tmp_path / "trap.pth", {"a": torch.zeros(1), "b": Trap(marker)}, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(UserError, match=r"trap\.pth holds more than tensors: it asks for '\S*system', which would run"):
        read_tensors(path)
    assert not marker.exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "net.pth", nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"Save the state_dict\(\) of the model alone"):
        read_tensors(path)


@pytest.mark.parametrize("write", [write_torch, write_safetensors], ids=["torch", "safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, write: Callable[[Path], Path], share: float) -> None:
    path = write(tmp_path / "cut")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"cut .*; fetch it again"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"<!doctype html> not found", "holds no weights"), (b"\x80\x02nonsense", "is damaged")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(UserError, match=rf"file\.pth {reason}"):
        read_tensors(tmp_path / "file.pth")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_tensors(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}, torch.zeros(3)])
def test_content_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match="without tensors by name"):
        read_tensors(write_torch(tmp_path / "a.pth", content))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = write_torch(tmp_path / "a.pth", {"fine": torch.zeros(2), "bad.weight": torch.tensor([1.0, value])})
    with pytest.raises(UserError, match=r"a\.pth: the tensor 'bad\.weight' holds numbers that are not finite"):
        read_tensors(path)
