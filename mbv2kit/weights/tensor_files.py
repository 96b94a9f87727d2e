"""Reads files of tensors without running code from them; damaged files are refused."""

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mbv2kit.errors import UserError
from mbv2kit.models.exports import SUFFIXES
from mbv2kit.nn.stored_tensors import StoredTensorsError, read_pickle, read_safetensors
from mbv2kit.weights.graphdef import is_graph

Kind = Literal["tflite", "graph", "safetensors", "torch"]

# Keys under which training scripts save weights; an average comes before the weights that it averages.
_INSIDE = ("model_ema", "state_dict", "model")


def kind_of(path: Path) -> Kind:
    """Returns the kind of a file by its first bytes, because its suffix may be wrong.

    Raises:
        UserError: The file is missing, empty or of a kind that holds no weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise UserError(f"{path} is empty; fetch it again.")
    if start[4:8] == b"TFL3":
        return "tflite"
    if is_graph(start):
        return "graph"
    # The length of a header, then the brace that opens it; no text has a zero as its eighth byte.
    if start[7:9] == b"\x00{":
        return "safetensors"
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return "torch"
    if path.suffix in SUFFIXES.values():
        raise UserError(
            f"{path} looks like an exported file, which runs only next to the model.json of its model folder and under "
            "its own name (model.onnx, model_int8.onnx ...); give that folder, or copy model.json too."
        )
    raise UserError(
        f"{path} holds no weights that can be read: it is neither a TFLite model (.tflite), nor a frozen graph of "
        "TensorFlow (.pb), nor safetensors, nor a file that torch.save wrote (.pth, .pt), or it was cut short; fetch "
        "it again."
    )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``.safetensors`` file or of a file that ``torch.save`` wrote.

    From the checkpoint of a training script only the weights are read, and the prefix ``module.`` of parallel training
    is removed.

    Returns:
        Tensors on the CPU by name.

    Raises:
        UserError: The file is damaged, holds no tensors, or would run code.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Reads the same as :func:`read_tensors`, and what the file has under ``meta``, where OpenMMLab describes it.

    Returns:
        Tensors on the CPU by name, and the description, which may be empty.

    Raises:
        UserError: The file is damaged, holds no tensors, or would run code.
    """
    if kind_of(path) == "safetensors":
        try:
            tensors = read_safetensors(path)
        except StoredTensorsError as error:
            raise UserError(f"{path} is damaged or was cut short ({error}); fetch it again.") from None
        meta = None
    else:
        content = _unpickle(path)
        tensors = _state_in(content, path)
        meta = content.get("meta")
    if not tensors:
        raise UserError(f"{path} holds no tensor.")
    _check_finite(tensors, path)
    return tensors, meta if isinstance(meta, Mapping) else {}


def _unpickle(path: Path) -> Any:
    try:
        return read_pickle(path)
    except StoredTensorsError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error.__cause__)):
            raise UserError(
                f"{path} holds more than tensors: it asks for '{found[1]}', which would run code, and is refused. "
                "Save the state_dict() of the model alone."
            ) from None
        if isinstance(error.__cause__, pickle.UnpicklingError):
            raise UserError(f"{path} is damaged, or torch.save did not write it; fetch it again.") from None
        raise UserError(f"{path} is damaged or was cut short ({error}); fetch it again.") from None


def _state_in(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for key in _INSIDE:
            if isinstance(content.get(key), Mapping):
                return _state_in(content[key], path)
        tensors = {
            name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)
        }
        tensors.pop("n_averaged", None)
        if tensors and all(name.startswith("module.") for name in tensors):
            tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
        if tensors:
            return tensors
    raise UserError(f"{path} holds a {type(content).__name__} without tensors by name; save a model's state_dict().")


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        # torch cannot compare 8-bit floats.
        wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
        if wide.is_floating_point() and not torch.isfinite(wide).all():
            raise UserError(f"{path}: the tensor '{name}' holds numbers that are not finite (NaN or infinity).")
