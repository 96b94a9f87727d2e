"""Files of tensors that claim more than they hold, which would take the memory of the machine."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from safetensors.torch import save_file

from mbv2kit.nn import stored_tensors
from mbv2kit.nn.stored_tensors import StoredTensorsError, read_pickle, read_safetensors


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int) -> Path:
    """Writes a file of torch.save again, with other entries."""
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(100)}, saved)
    with ZipFile(saved) as source, ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return path


def test_a_compressed_file_is_not_expanded(tmp_path: Path) -> None:
    path = repacked(
        tmp_path / "a.pth", lambda name, data: bytes(10**6) if name.endswith("data/0") else data, ZIP_DEFLATED
    )
    with pytest.raises(StoredTensorsError, match="it is compressed"):
        read_pickle(path)


@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_bytes_of_any_length_are_not_made(tmp_path: Path, module: str) -> None:
    length = (1 << 36).to_bytes(5, "little")
    pickled = b"\x80\x02c" + module.encode() + b"\nbytearray\n\x8a\x05" + length + b"\x85R."
    path = repacked(tmp_path / "a.pth", lambda name, data: pickled if name.endswith("data.pkl") else data, 0)
    with pytest.raises(StoredTensorsError, match="it holds a bytearray, not only tensors"):
        read_pickle(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**50),
        torch.zeros(2**50, device="meta"),
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (2**50,), check_invariants=True),
    ],
    ids=["expanded", "meta", "sparse"],
)
def test_a_tensor_has_all_its_values_in_the_file(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"optimizer_states": [{"a": tensor}]}, tmp_path / "a.pth")
    with pytest.raises(StoredTensorsError, match=r"it holds a tensor of shape \(1125899906842624,\) without all its"):
        read_pickle(tmp_path / "a.pth")


def test_views_and_shared_tensors_are_read(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    content = {"a": whole.view(2, 3).T, "b": whole[2:4], "empty": torch.zeros(0, 3)}
    torch.save(content, tmp_path / "a.pth")
    read = read_pickle(tmp_path / "a.pth")
    assert all(torch.equal(read[name], content[name]) for name in content)


def test_a_list_that_holds_one_list_many_times_over_and_over_is_visited_once(tmp_path: Path) -> None:
    nested: list[object] = []
    for _ in range(40):
        nested = [nested] * 10
    torch.save(nested, tmp_path / "a.pth")
    assert len(read_pickle(tmp_path / "a.pth")) == 10


@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
def test_a_file_of_too_many_tensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(stored_tensors, "_MOST_TENSORS", 10)
    tensors = {str(index): torch.zeros(1) for index in range(11)}
    if kind == "pickle":
        torch.save(tensors, tmp_path / "a")
    else:
        save_file(tensors, tmp_path / "a")
    with pytest.raises(StoredTensorsError, match="tensors, expected at most 10"):
        (read_pickle if kind == "pickle" else read_safetensors)(tmp_path / "a")


@pytest.mark.parametrize("values", [2**38, 2**62, 2**80])
def test_a_header_that_claims_terabytes_is_refused(tmp_path: Path, values: int) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))
    with pytest.raises(StoredTensorsError, match="header"):
        read_safetensors(tmp_path / "a")
