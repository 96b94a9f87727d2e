"""OpenVINO on the CPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.models.exports import Export


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Imports OpenVINO or NNCF as if their telemetry package were not there.

    With it, both report over the network how they are used, and OpenVINO takes half as long again to import.
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

# The first look into a tensor sets up a table of types, and where two threads look first at the same time, OpenVINO's
# Python hangs for ever (2026.4): one waits for the table with the lock of the interpreter that the other needs.
_ = ov.Tensor(np.zeros(1, np.uint8)).data


class _OpenVinoSession:
    def __init__(self, compiled: ov.CompiledModel, export: Export) -> None:
        self._outputs = {name: compiled.output(name) for name in export.outputs}
        self._request = compiled.create_infer_request()

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        # Not sharing the outputs makes copies of them, which the next call does not overwrite.
        results = self._request.infer([images], share_inputs=True, share_outputs=False)
        return {name: results[output] for name, output in self._outputs.items()}


def open_session(path: Path, export: Export, threads: int) -> _OpenVinoSession:
    """Opens an OpenVINO or ONNX file; see :func:`mbv2kit.inference.runtimes.open_session`."""
    core = ov.Core()
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Pinned, two sessions of one thread each share one core and leave the other idle, and beside other work a
        # session takes 1.2 to 1.8 times as long.
        "ENABLE_CPU_PINNING": False,
    }
    if export.precision != "fp16":
        # Left to itself, OpenVINO computes any network in the half floats that the processor has.
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        return _OpenVinoSession(core.compile_model(core.read_model(path), "CPU", options), export)
    except Exception as error:  # RuntimeError is what most kinds of damage raise, but nothing says that all do
        raise UserError(f"{path} is no network that OpenVINO reads: {one_line(error)}") from None
