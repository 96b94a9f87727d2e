import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbv2kit.serving.errors import RefusedError
from mbv2kit.serving.protocol import InferRequest, joined, read_request, write_response
from mbv2kit.serving.tensors import TensorInfo

IMAGES = TensorInfo("images", "UINT8", (2, 1, 3))
OUTPUTS = ("boxes", "scores")
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 1, 3)
MODEL = {"model_name": "cells", "model_version": "1"}


def read(values: Any, rest: bytes = b"", length: str | None = None, images: TensorInfo = IMAGES) -> InferRequest:
    header = values if isinstance(values, bytes) else json.dumps(values).encode()
    if rest and length is None:
        length = str(len(header))
    return read_request(header + rest, length, images, OUTPUTS)


def tensor(**changes: Any) -> dict[str, Any]:
    own = {"name": "images", "datatype": "UINT8", "shape": [2, 2, 1, 3], "data": PIXELS.tolist()} | changes
    return {"inputs": [{key: value for key, value in own.items() if value is not None}]}


def binary(size: Any = 12, **changes: Any) -> dict[str, Any]:
    return tensor(data=None, parameters={"binary_data_size": size}, **changes)


@pytest.mark.parametrize("data", [PIXELS.tolist(), PIXELS.ravel().tolist()])
def test_numbers_are_read_flat_or_nested(data: Any) -> None:
    request = read(tensor(data=data))
    np.testing.assert_array_equal(request.images, PIXELS)
    assert request.images.dtype == np.uint8
    assert (request.outputs, request.id) == ({"boxes": False, "scores": False}, None)


def test_bytes_are_read() -> None:
    request = read(binary() | {"id": "7", "parameters": {"binary_data_output": True}}, PIXELS.tobytes())
    np.testing.assert_array_equal(request.images, PIXELS)
    assert (request.outputs, request.id) == ({"boxes": True, "scores": True}, "7")


def test_floats_are_read_where_the_network_takes_them() -> None:
    info = TensorInfo("images", "FP32", (1, 1, 3))
    request = read(tensor(datatype="FP32", shape=[1, 1, 1, 3], data=[0, 1.5, 255]), images=info)
    assert request.images.dtype == np.float32
    assert request.images.ravel().tolist() == [0, 1.5, 255]


def test_a_client_chooses_outputs_and_their_form() -> None:
    wanted = [{"name": "scores", "parameters": {"binary_data": False}}, {"name": "boxes"}]
    request = read(tensor() | {"outputs": wanted, "parameters": {"binary_data_output": True}})
    assert list(request.outputs.items()) == [("scores", False), ("boxes", True)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (b"", "must be an object of JSON"),
        (b"\xff\xfe", "must be an object of JSON"),
        (b"[" * 100_000, "must be an object of JSON"),
        ([], "must be an object of JSON"),
        ({}, "'inputs' must be a list of one tensor"),
        ({"inputs": [None]}, "'inputs' must be a list of one tensor"),
        ({"inputs": tensor()["inputs"] * 2}, "'inputs' must be a list of one tensor"),
        (tensor(name="pixels"), "no input 'pixels', it takes 'images'"),
        (tensor(name=["x" * 1000]), "no input"),
        (tensor(datatype="FP32"), "datatype of 'images' must be UINT8, got 'FP32'"),
        (tensor(datatype=None), "must be UINT8, got None"),
        (tensor(shape=[2, 1, 2, 3]), r"shape of 'images' must be \[-1, 2, 1, 3\], got \[2, 1, 2, 3\]"),
        (tensor(shape=[0, 2, 1, 3], data=[]), "shape of 'images'"),
        (tensor(shape=[-1, 2, 1, 3]), "shape of 'images'"),
        (tensor(shape=[True, 2, 1, 3]), "shape of 'images'"),
        (tensor(shape=[2.0, 2, 1, 3]), "shape of 'images'"),
        (tensor(shape="2213"), "shape of 'images'"),
        (tensor(shape=[10**30, 2, 1, 3]), "numbers for UINT8"),
        (tensor(data=[1] * 11), r"must be 12 numbers for UINT8 \[2, 2, 1, 3\]"),
        (tensor(data=[[1], [1, 2]]), "must be 12 numbers"),
        (tensor(data="a" * 12), "must be 12 numbers"),
        (tensor(data=["a"] * 12), "must be 12 numbers"),
        (tensor(data=[0.5] * 12), "must be 12 numbers"),
        (tensor(data=[True] * 12), "must be 12 numbers"),
        (tensor(data=[10**30] * 12), "must be 12 numbers"),
        (tensor(data=[None] * 12), "must be 12 numbers"),
        (tensor(data={"a": 1}), "must be 12 numbers"),
        (tensor(data=[-1] * 12), r"must be in 0\.\.255"),
        (tensor(data=[256] * 12), r"must be in 0\.\.255"),
        (tensor(data=None), "must have 'data', or binary_data_size"),
        (binary("12"), "'binary_data_size' must be of the type int, got '12'"),
        (binary(12), "12 bytes of 'images' must follow the JSON, got 0"),
        (tensor(parameters=[]), "'parameters' must be of the type dict"),
        (tensor() | {"id": 7}, "'id' must be of the type str, got 7"),
        (tensor() | {"outputs": {}}, "'outputs' must be a list of tensors"),
        (tensor() | {"outputs": [1]}, "'outputs' must be a list of tensors"),
        (tensor() | {"outputs": [{"name": "boxes_"}]}, "no output 'boxes_'. Did you mean 'boxes'"),
        (tensor() | {"outputs": [{"name": ["boxes"]}]}, "no output"),
        (
            tensor() | {"outputs": [{"name": "boxes", "parameters": {"classification": 3}}]},
            "'classification' of outputs is not supported",
        ),
        (
            tensor() | {"outputs": [{"name": "boxes", "parameters": {"binary_data": 1}}]},
            "'binary_data' must be of the type bool",
        ),
    ],
)
def test_what_is_no_request_is_a_sentence(values: Any, message: str) -> None:
    with pytest.raises(RefusedError, match=message) as refused:
        read(values)
    assert refused.value.status == 400
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 100, "10000", "", "0x10", "²"])
def test_a_wrong_length_of_the_header_is_a_sentence(length: str) -> None:
    with pytest.raises(RefusedError, match="Inference-Header-Content-Length must be a number from 0 to"):
        read(binary(), PIXELS.tobytes(), length)


@pytest.mark.parametrize("rest", [b"1", bytes(11), bytes(13)])
def test_missing_and_left_over_bytes_are_refused(rest: bytes) -> None:
    with pytest.raises(RefusedError, match="must follow the JSON"):
        read(binary(), rest)
    with pytest.raises(RefusedError, match="must have 12 bytes"):
        read(binary(len(rest)), rest)
    with pytest.raises(RefusedError, match="must have 'data', or"):
        read(tensor(), rest)


@given(st.binary(max_size=200), st.none() | st.integers(0, 300).map(str))
def test_any_bytes_are_a_request_or_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(RefusedError):
        read_request(body, length, IMAGES, OUTPUTS)


@given(st.booleans(), st.booleans())
def test_a_response_holds_the_arrays_in_either_form(first: bool, second: bool) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "boxes": np.array([[[0.1, 1e-9]], [[3, 4]]], np.float32),
        "scores": np.array([[1], [2]], np.uint8),
    }
    infos = [TensorInfo.of(name, array) for name, array in arrays.items()]
    request = InferRequest(PIXELS, {"scores": first, "boxes": second}, "a")
    body, length = write_response(request, arrays, infos, MODEL)
    assert (length is None) == (not first and not second)
    values, rest = json.loads(body[:length]), body[length:] if length else b""
    assert {key: values[key] for key in ("id", *MODEL)} == {"id": "a"} | MODEL
    for own, name, datatype in zip(values["outputs"], ("scores", "boxes"), ("UINT8", "FP32"), strict=True):
        assert (own["name"], own["datatype"], own["shape"]) == (name, datatype, list(arrays[name].shape))
        if "data" in own:
            found = np.array(own["data"], arrays[name].dtype).reshape(arrays[name].shape)
        else:
            size = own["parameters"]["binary_data_size"]
            found, rest = np.frombuffer(rest[:size], arrays[name].dtype).reshape(arrays[name].shape), rest[size:]
        np.testing.assert_array_equal(found, arrays[name])
    assert rest == b""


def test_json_has_no_infinity_but_bytes_have() -> None:
    arrays = {"boxes": np.array([[np.inf]], np.float32)}
    infos = [TensorInfo.of("boxes", arrays["boxes"])]
    with pytest.raises(RefusedError, match="values that JSON does not have; ask for them with binary_data=true"):
        write_response(InferRequest(PIXELS, {"boxes": False}, None), arrays, infos, MODEL)
    body, length = write_response(InferRequest(PIXELS, {"boxes": True}, None), arrays, infos, MODEL)
    assert body[length:] == arrays["boxes"].tobytes()
    assert "id" not in json.loads(body[:length])


def test_images_of_a_batch_are_joined() -> None:
    parts = [{"mask": np.full((1, 2, 2), value)} for value in range(3)]
    assert joined(parts)["mask"][:, 0, 0].tolist() == [0, 1, 2]
