"""Exported files with loops, which a hostile file could run for ever, are refused as they are opened."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mbv2kit.errors import UserError
from mbv2kit.inference.runtimes import RuntimeName, open_session
from mbv2kit.inference.runtimes.straight import check_straight, check_straight_onnx
from mbv2kit.models.folder import ModelFolder
from tests.inference.networks import save_shares

FOREVER = 2**62


def save_loop(folder: Path) -> Path:
    """Saves a network that adds its values to themselves 2^62 times."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "twice")]
    flags = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["twice"])],
        "body",
        [helper.make_tensor_value_info("step", TensorProto.INT64, []), flags[0], values[0]],
        [flags[1], values[1]],
    )
    return save_shares(
        folder,
        helper.make_node("Constant", [], ["trips"], value_int=FOREVER),
        helper.make_node("Loop", ["trips", "", "shares"], ["probabilities"], body=body),
    )


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_loop_is_refused_before_it_runs(tmp_path: Path, runtime: RuntimeName) -> None:
    pytest.importorskip(runtime)
    folder = save_loop(tmp_path)
    (export,) = ModelFolder(folder).read_exports()
    with pytest.raises(UserError, match=r"model\.onnx has control flow \(Loop\), which may run for ever"):
        open_session(runtime, folder, export, 1)


def test_a_function_is_refused(tmp_path: Path) -> None:
    path = save_shares(tmp_path) / "model.onnx"
    model = onnx.load(path)
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "same", ["x"], ["y"], [node], model.opset_import))
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"has control flow \(a function of its own\)"):
        check_straight_onnx(path)


def test_what_is_straight_or_no_network_is_left_to_the_runtime(tmp_path: Path) -> None:
    whole = (save_shares(tmp_path) / "model.onnx").read_bytes()
    random = np.random.default_rng(0)
    for content in (whole, b"", b"\xff" * 30, *(whole[:length] for length in random.integers(1, len(whole), 30))):
        (tmp_path / "a.onnx").write_bytes(content)
        check_straight_onnx(tmp_path / "a.onnx")


def test_loops_of_other_formats_are_known_by_name(tmp_path: Path) -> None:
    check_straight(tmp_path, ["CONV_2D", "Convolution"])
    for name in ("WHILE", "TensorIterator"):
        with pytest.raises(UserError, match=rf"has control flow \({name}\)"):
            check_straight(tmp_path, [name])
