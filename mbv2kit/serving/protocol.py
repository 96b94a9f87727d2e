"""Requests and responses of the Open Inference Protocol (KServe V2) as bytes; knows no HTTP.

Sources: the specification at github.com/kserve/open-inference-protocol, and the extension for binary tensors,
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbv2kit.errors import nearest
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.serving.errors import RefusedError
from mbv2kit.serving.tensors import TensorInfo
from mbv2kit.structures import Input

# Length of the JSON in front of the bytes of tensors.
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        images: ``(B, H, W, 3)``, of the network's type.
        outputs: The outputs to return, each with whether it is returned as bytes.
        id: What the response repeats; None for nothing.
    """

    images: Input
    outputs: Mapping[str, bool]
    id: str | None


def read_request(body: bytes, header_length: str | None, images: TensorInfo, outputs: Sequence[str]) -> InferRequest:
    """Reads a request.

    Args:
        body: JSON; or JSON, and the bytes of the tensor.
        header_length: What the client says of the length of the JSON; None where it is all.
        images: The tensor that the model takes.
        outputs: Names of the tensors that it returns.

    Raises:
        RefusedError: The request is none, or not one for this model.
    """
    length = _length(header_length, len(body))
    values = _json(body[:length])
    given = values.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise RefusedError(400, f"'inputs' must be a list of one tensor, '{images.name}'.")
    return InferRequest(
        _images(given[0], body[length:], images), _outputs(values, outputs), _optional(values, "id", str, None)
    )


def write_response(
    request: InferRequest, outputs: Outputs, infos: Sequence[TensorInfo], model: Mapping[str, str]
) -> tuple[bytes, int | None]:
    """Writes a response.

    Args:
        request: What it answers.
        outputs: The arrays of the network.
        infos: Descriptions of the arrays.
        model: ``model_name`` and ``model_version``.

    Returns:
        The response, and the length of its JSON if bytes of tensors follow.

    Raises:
        RefusedError: A number is one that JSON does not have.
    """
    described, parts = [], list[bytes]()
    datatypes = {info.name: info.datatype for info in infos}
    for name, binary in request.outputs.items():
        array = outputs[name]
        own: dict[str, Any] = {"name": name, "datatype": datatypes[name], "shape": list(array.shape)}
        if binary:
            parts.append(array.tobytes())
            own["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            own["data"] = array.ravel().tolist()
        described.append(own)
    values = {**model, **({} if request.id is None else {"id": request.id}), "outputs": described}
    try:
        header = json.dumps(values, allow_nan=False).encode()
    except ValueError:
        raise RefusedError(
            500, "The network's outputs hold values that JSON does not have; ask for them with binary_data=true."
        ) from None
    return (b"".join([header, *parts]), len(header)) if parts else (header, None)


def _length(header_length: str | None, most: int) -> int:
    if header_length is None:
        return most
    # int() takes more than digits, and thousands of them only after a while.
    if not header_length.isdecimal() or len(header_length) > 10 or int(header_length) > most:
        raise RefusedError(400, f"{HEADER_LENGTH} must be a number from 0 to {most}, the length of the request.")
    return int(header_length)


def _json(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise RefusedError(400, "The request must be an object of JSON.")
    return values


def _images(given: Mapping[str, Any], rest: bytes, images: TensorInfo) -> Input:
    name, datatype, shape = (given.get(key) for key in ("name", "datatype", "shape"))
    if name != images.name:
        raise RefusedError(400, f"The model has no input {name!r:.80}, it takes '{images.name}'.")
    if datatype != images.datatype:
        raise RefusedError(400, f"The datatype of '{name}' must be {images.datatype}, got {datatype!r:.80}.")
    sides = shape if isinstance(shape, list) and all(type(side) is int for side in shape) else []
    if len(sides) != 1 + len(images.shape) or tuple(sides[1:]) != images.shape or sides[0] < 1:
        raise RefusedError(400, f"The shape of '{name}' must be {[-1, *images.shape]}, got {shape!r:.80}.")
    size = _optional(_parameters(given), "binary_data_size", int, None)
    if size is None:
        if rest or "data" not in given:
            raise RefusedError(400, f"'{name}' must have 'data', or binary_data_size and as many bytes after the JSON.")
        return images.from_list(given["data"], sides[0])
    if "data" in given or size != len(rest):
        raise RefusedError(400, f"{size} bytes of '{name}' must follow the JSON, got {len(rest)}.")
    return images.from_bytes(rest, sides[0])


def _outputs(values: Mapping[str, Any], known: Sequence[str]) -> dict[str, bool]:
    binary = _optional(_parameters(values), "binary_data_output", bool, False)
    given = values.get("outputs")
    if given is None:
        return dict.fromkeys(known, binary)
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise RefusedError(400, "'outputs' must be a list of tensors.")
    wanted = {}
    for each in given:
        name, own = each.get("name"), _parameters(each)
        if name not in known:
            raise RefusedError(400, f"The model has no output {name!r:.80}.{nearest(name, known)}")
        for key in ("classification", "shared_memory_region"):
            if own.get(key):
                raise RefusedError(400, f"The parameter '{key}' of outputs is not supported.")
        wanted[name] = _optional(own, "binary_data", bool, binary)
    return wanted or dict.fromkeys(known, binary)


def _parameters(values: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _optional(values, "parameters", dict, {})
    return found


def _optional(values: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    """Returns a value that may be missing; booleans are no numbers."""
    value = values.get(key)
    if value is None:
        return default
    if type(value) is not kind:
        raise RefusedError(400, f"'{key}' must be of the type {kind.__name__}, got {value!r:.80}.")
    return value


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Joins the outputs of single images to those of a batch."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
