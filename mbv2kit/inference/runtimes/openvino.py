"""OpenVINO on the CPU."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.inference.runtimes.onnxruntime import check_onnx
from mbv2kit.inference.runtimes.straight import check_straight
from mbv2kit.memory import free_memory
from mbv2kit.models.exports import SUFFIXES, Export
from mbv2kit.process import silence_stderr
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


def _check_sizes(path: Path, network: ov.Model, export: Export) -> None:
    """Raises :class:`UserError` if a tensor is larger than the free memory, where OpenVINO may crash.

    A dimension that only the pixels decide counts as 1, or as the least that it can be.
    """
    free = free_memory()
    sized = network.clone()
    # A network that takes another input says so as it runs.
    with suppress(RuntimeError):
        sized.reshape([export.batch or 1, *export.size, 3])
    for operation in sized.get_ops():
        for output in operation.outputs():
            shape, type_ = output.get_partial_shape(), output.get_element_type()
            if free is None or shape.rank.is_dynamic:
                continue
            size = math.prod(max(1, side) for side in shape.get_min_shape()) * type_.bitwidth // 8
            if size > free:
                raise UserError(
                    f"{path} needs {size:,} bytes for an output of {operation.get_type_name()}, and {free:,} are free; "
                    "use a file for a smaller input or batch."
                )


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
            # OpenVINO crashes on an operation with fewer inputs than it needs.
            check_onnx(path)
        with silence_stderr():
            network = core.read_model(path)
        check_straight(path, (operation.get_type_name() for operation in network.get_ops()))
        _check_sizes(path, network, export)
        return _OpenVinoSession(core.compile_model(network, "CPU", options), export)
    except UserError:
        raise
    except Exception as error:  # most kinds of damage raise RuntimeError, but not all are documented to
        raise UserError(f"{path} is not a network that OpenVINO can read: {one_line(error)}") from None
