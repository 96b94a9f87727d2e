"""Exported files of a few bytes that ask for more memory than there is, or break the rules of their format."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from mbv2kit.errors import UserError
from mbv2kit.inference.runtimes import RuntimeName, open_session
from mbv2kit.models.folder import ModelFolder
from tests.inference.networks import save_shares

RUNTIMES: list[RuntimeName] = ["onnxruntime", "openvino"]
# Float32 values of four exabytes.
MANY = 10**18


def ask_for(operation: str, values: int) -> list[NodeProto]:
    """Returns nodes whose operation makes a tensor of about as many values, and a sum of it."""
    side = round(values**0.5)
    sizes, source = {
        "ConstantOfShape": ([values], []),
        "Expand": ([values // 3, 1, 3], ["shares"]),
        "Tile": ([side, side], ["shares"]),
    }[operation]
    return [
        helper.make_node("Constant", [], ["sizes"], value_ints=sizes),
        helper.make_node(operation, [*source, "sizes"], ["large"]),
        helper.make_node("Relu", ["large"], ["larger"]),
        helper.make_node("ReduceMax", ["larger"], ["most"], keepdims=0),
        helper.make_node("Add", ["shares", "most"], ["probabilities"]),
    ]


@pytest.mark.parametrize("operation", ["ConstantOfShape", "Expand", "Tile"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_tensor_that_no_memory_holds_is_a_sentence(tmp_path: Path, runtime: RuntimeName, operation: str) -> None:
    pytest.importorskip(runtime)
    folder = save_shares(tmp_path, *ask_for(operation, MANY))
    (export,) = ModelFolder(folder).read_exports()
    with pytest.raises(UserError, match=r"model\.onnx (needs|fails|is not a network)"):
        open_session(runtime, folder, export, 1)(np.ones((1, 8, 8, 3), np.uint8))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux promises more memory than there is")
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("operation", ["ConstantOfShape", "Expand"])
def test_inference_stays_within_a_limit(root: Path, tmp_path: Path, runtime: RuntimeName, operation: str) -> None:
    pytest.importorskip(runtime)
    folder = save_shares(tmp_path / "model", *ask_for(operation, 10**9))
    onnx_file = folder / "model.onnx"
    assert onnx_file.stat().st_size < 1000
    (tmp_path / "a.ppm").write_bytes(b"P6 8 8 255\n" + bytes(8 * 8 * 3))
    done = subprocess.run(
        [sys.executable, str(root / "tools/infer.py"), "a.ppm", f"checkpoint={folder}", f"runtime={runtime}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 * 10**9, 2 * 10**9)),
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert str(onnx_file) in done.stderr


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("operation", ["Pad", "ConstantOfShape", "Tile"])
def test_an_operation_without_its_inputs_is_a_sentence(tmp_path: Path, runtime: RuntimeName, operation: str) -> None:
    pytest.importorskip(runtime)
    folder = save_shares(tmp_path, helper.make_node("Identity", ["shares"], ["probabilities"]))
    model = onnx.load(folder / "model.onnx")
    model.graph.node[-1].op_type = operation
    onnx.save(model, folder / "model.onnx")
    (export,) = ModelFolder(folder).read_exports()
    with pytest.raises(UserError, match=r"model\.onnx is not a network that ONNX Runtime can read"):
        open_session(runtime, folder, export, 1)
