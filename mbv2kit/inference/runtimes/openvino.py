"""OpenVINO on the CPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.inference.runtimes.straight import check_straight, check_straight_onnx
from mbv2kit.models.exports import SUFFIXES, Export
from mbv2kit.structures import Input


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Imports OpenVINO or NNCF as if their telemetry package were not installed.

    With it, both report their use over the network, and importing OpenVINO takes half as long again.
    """
    modules = cast(dict[str, Any], sys.modules)
    installed = modules.get("openvino_telemetry")
    modules["openvino_telemetry"] = None
    try:
        yield
    finally:
        del modules["openvino_telemetry"]
        if installed is not None:
            modules["openvino_telemetry"] = installed


with without_telemetry():
    import openvino as ov

# The first access to a tensor sets up a table of types. If two threads do this at the same time, OpenVINO 2026.4 hangs
# forever: one waits for the table while it holds the lock of the interpreter, which the other needs.
_ = ov.Tensor(np.zeros(1, np.uint8)).data


class _OpenVinoSession:
    def __init__(self, compiled: ov.CompiledModel, export: Export) -> None:
        self._outputs = {name: compiled.output(name) for name in export.outputs}
        self._request = compiled.create_infer_request()

    def __call__(self, images: Input) -> Outputs:
        # Without sharing, the outputs are copies, which the next call does not overwrite.
        results = self._request.infer([images], share_inputs=True, share_outputs=False)
        return {name: results[output] for name, output in self._outputs.items()}


def open_session(path: Path, export: Export, threads: int) -> _OpenVinoSession:
    """Opens an OpenVINO or ONNX file; see :func:`mbv2kit.inference.runtimes.open_session`."""
    core = ov.Core()
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # With pinning, two sessions of one thread each share one core while the other is idle, and a session takes 1.2
        # to 1.8 times as long when other programs run.
        "ENABLE_CPU_PINNING": False,
    }
    if export.precision != "fp16":
        # By default, OpenVINO computes any network in the fp16 type that the processor has.
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        if path.suffix == SUFFIXES["onnx"]:
            check_straight_onnx(path)
        network = core.read_model(path)
        check_straight(path, (operation.get_type_name() for operation in network.get_ops()))
        return _OpenVinoSession(core.compile_model(network, "CPU", options), export)
    except UserError:
        raise
    except Exception as error:  # most kinds of damage raise RuntimeError, but not all are documented to
        raise UserError(f"{path} is not a network that OpenVINO can read: {one_line(error)}") from None
