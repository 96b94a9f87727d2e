from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.inference.runtimes import open_session
from mbv2kit.models.exports import Export
from mbv2kit.models.session import Session

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

SIZE = (4, 6)
EXPORT = Export(
    file="model.tflite",
    format="litert",
    precision="fp32",
    size=SIZE,
    batch=2,
    outputs=("probabilities", "mask"),
    nms_options={},
    sha256="",
)


def write_network(path: Path) -> None:
    """Writes a network whose mask is the strongest color of each pixel and whose probabilities are the mean color.

    The mask is the file's first output, though it is the second one of the export.
    """
    tensors: list[Any] = []
    buffers, operators, codes = [schema.BufferT()], list[Any](), list[Any]()

    def tensor(name: str, shape: tuple[int, ...], kind: str, values: NDArray[np.int32] | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), getattr(schema.TensorType, kind)
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
            made.buffer = len(buffers)
            buffers.append(buffer)
        tensors.append(made)
        return len(tensors) - 1

    def operator(name: str, inputs: list[int], output: int, version: int = 1) -> int:
        made, code = schema.OperatorT(), schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = version
        made.opcodeIndex, made.inputs, made.outputs = len(codes), inputs, [output]
        if name == "ARG_MAX":
            made.builtinOptionsType, made.builtinOptions = schema.BuiltinOptions.ArgMaxOptions, schema.ArgMaxOptionsT()
            made.builtinOptions.outputType = schema.TensorType.INT32
        if name == "MEAN":
            made.builtinOptionsType, made.builtinOptions = (
                schema.BuiltinOptions.ReducerOptions,
                schema.ReducerOptionsT(),
            )
        operators.append(made)
        codes.append(code)
        return output

    images = tensor("a", (2, *SIZE, 3), "UINT8")
    pixels = operator("CAST", [images], tensor("b", (2, *SIZE, 3), "FLOAT32"))
    sides = tensor("c", (2,), "INT32", np.array([1, 2], dtype=np.int32))
    mean = operator("MEAN", [pixels, sides], tensor("d", (2, 3), "FLOAT32"))
    axis = tensor("e", (1,), "INT32", np.array([3], dtype=np.int32))
    strongest = operator("ARG_MAX", [pixels, axis], tensor("f", (2, *SIZE), "INT32"))
    mask = operator("CAST", [strongest], tensor("g", (2, *SIZE), "UINT8"))

    graph, signature, model = schema.SubGraphT(), schema.SignatureDefT(), schema.ModelT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, operators, [images], [mask, mean]
    signature.signatureKey = "serving_default"
    signature.inputs = [named("images", images)]
    signature.outputs = [named("mask", mask), named("probabilities", mean)]
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], codes, buffers
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def named(name: str, index: int) -> object:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("litert")
    write_network(folder / EXPORT.file)
    return folder


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return open_session("litert", folder, EXPORT, 1)


def make_images(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)


def test_outputs_have_their_names_whatever_their_order_in_the_file(session: Session) -> None:
    images = make_images()
    outputs = session(images)
    assert list(outputs) == ["probabilities", "mask"]
    assert outputs["probabilities"].dtype == np.float32
    np.testing.assert_allclose(outputs["probabilities"], images.mean(axis=(1, 2)), rtol=1e-6)
    assert outputs["mask"].dtype == np.uint8
    np.testing.assert_array_equal(outputs["mask"], images.argmax(axis=3))


def test_outputs_survive_the_next_call(session: Session) -> None:
    first = session(make_images(1))
    kept = {name: array.copy() for name, array in first.items()}
    session(make_images(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


def test_images_may_lie_in_memory_in_any_order(session: Session) -> None:
    images = make_images()
    turned = np.ascontiguousarray(images.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    assert not turned.flags.c_contiguous
    for name, array in session(turned).items():
        np.testing.assert_array_equal(array, session(images)[name])


def test_threads_change_no_output(folder: Path, session: Session) -> None:
    two = open_session("litert", folder, EXPORT, 2)
    for name, array in two(make_images()).items():
        np.testing.assert_array_equal(array, session(make_images())[name])


def test_opening_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_session("litert", folder, EXPORT, 1)(make_images())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["empty", "cut", "not a network"])
def test_a_damaged_file_is_reported(folder: Path, tmp_path: Path, damage: str) -> None:
    content = (folder / EXPORT.file).read_bytes()
    path = tmp_path / EXPORT.file
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "not a network": b"PNG" * 1000}[damage])
    with pytest.raises(UserError, match="is not a network that LiteRT can read") as raised:
        open_session("litert", tmp_path, EXPORT, 1)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("inputs", [[], [-1]])
def test_a_file_without_an_input_is_refused(tmp_path: Path, inputs: list[int]) -> None:
    write_network(tmp_path / EXPORT.file)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs((tmp_path / EXPORT.file).read_bytes(), 0))
    model.subgraphs[0].inputs = inputs
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / EXPORT.file).write_bytes(bytes(builder.Output()))
    with pytest.raises(UserError, match="is not a network that LiteRT can read"):
        open_session("litert", tmp_path, EXPORT, 1)


def test_a_file_without_an_output_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model\.tflite is not a network that LiteRT can read \('boxes'\)"):
        open_session("litert", folder, replace(EXPORT, outputs=("boxes",)), 1)
