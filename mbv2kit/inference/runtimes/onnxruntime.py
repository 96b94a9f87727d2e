"""ONNX Runtime on the CPU."""

from pathlib import Path

import onnxruntime as ort

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.inference.runtimes.straight import check_straight_onnx
from mbv2kit.models.exports import Export
from mbv2kit.structures import Input


class _OnnxRuntimeSession:
    def __init__(self, session: ort.InferenceSession, export: Export) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._outputs = export.outputs

    def __call__(self, images: Input) -> Outputs:
        return dict(zip(self._outputs, self._session.run(list(self._outputs), {self._input: images}), strict=True))


def open_session(path: Path, export: Export, threads: int) -> _OnnxRuntimeSession:
    """Opens an ONNX file; see :func:`mbv2kit.inference.runtimes.open_session`."""
    options = _quiet_options()
    options.intra_op_num_threads = threads
    # Planning the memory of all activations takes a quarter more memory and saves no time.
    options.enable_mem_pattern = False
    return _OnnxRuntimeSession(_open(path, options), export)


def check_onnx(path: Path) -> None:
    """Raises :class:`UserError` if a file breaks ONNX's rules, for runtimes that crash on such a file."""
    options = _quiet_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    _open(path, options)


def _quiet_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    # Errors are raised as well.
    options.log_severity_level = 4
    return options


def _open(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    try:
        check_straight_onnx(path)
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except UserError:
        raise
    except Exception as error:  # every kind of damage has its own class, derived only from Exception
        raise UserError(f"{path} is not a network that ONNX Runtime can read: {one_line(error)}") from None
