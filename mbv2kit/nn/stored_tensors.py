"""Opens files of tensors that someone else may have written: no code runs, and a small file takes little memory."""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mbv2kit.errors import one_line

# The checkpoint of the largest network here has some 2,000.
_MOST_TENSORS = 20_000
# The one type that a pickle of tensors may create at any length.
_FILLED = b"\nbytearray\n"


class StoredTensorsError(Exception):
    """The reason why a file of tensors cannot be read, in a line without the name of the file."""


def read_pickle(path: Path) -> Any:
    """Reads a file that ``torch.save`` wrote, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        StoredTensorsError: It is damaged, takes more memory than it has bytes, or asks for more than tensors and plain
            containers; ``__cause__`` is what torch raised, if it did.
    """
    try:
        _check_size(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        for tensor in _tensors_in(content):
            _check_whole(tensor)
        return content
    except (FileNotFoundError, StoredTensorsError):
        raise
    # A damaged file may make the reader raise anything: RuntimeError, EOFError, KeyError, struct.error, ...
    except Exception as error:
        raise StoredTensorsError(one_line(error)) from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``.safetensors`` file by name, on the CPU.

    Raises:
        StoredTensorsError: It is damaged, or its header claims what it does not hold.
    """
    try:
        with safe_open(path, framework="pt") as file:
            _check_count(len(file.keys()))
        return load_file(path)
    except StoredTensorsError:
        raise
    except Exception as error:
        raise StoredTensorsError(one_line(error)) from error


def _check_size(path: Path) -> None:
    """Raises :class:`StoredTensorsError` for a file that would expand as it is read."""
    if is_zipfile(path):
        with ZipFile(path) as archive:
            _check_count(len(archive.filelist))
            # torch.save compresses nothing. Several entries may share their bytes.
            if sum(entry.file_size for entry in archive.filelist) > path.stat().st_size:
                raise StoredTensorsError("it is compressed, which torch.save never does")
    # Nothing is compressed, so the name stands in the file as it is.
    with path.open("rb") as file:
        if path.stat().st_size and mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(_FILLED) >= 0:
            raise StoredTensorsError("it holds a bytearray, not only tensors")


def _check_count(tensors: int) -> None:
    if tensors > _MOST_TENSORS:
        raise StoredTensorsError(f"it holds {tensors:,} tensors, expected at most {_MOST_TENSORS:,}")


def _check_whole(tensor: Tensor) -> None:
    """Raises :class:`StoredTensorsError` unless every value of a tensor has bytes of its own in the file."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise StoredTensorsError(
            f"it holds a tensor of shape {tuple(tensor.shape)} without all its values (sparse, quantized, on the meta "
            "device or expanded)"
        )


def _tensors_in(content: Any) -> Iterator[Tensor]:
    # A pickle may hold one list many times within another: each is visited once.
    seen, waiting = set(), [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)
