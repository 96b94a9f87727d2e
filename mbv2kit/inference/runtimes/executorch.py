"""ExecuTorch with XNNPACK on the CPU; its Python binding needs torch for tensors."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mbv2kit.answers import Answers
from mbv2kit.errors import UserError
from mbv2kit.exports import Export

with warnings.catch_warnings():
    # It calls itself experimental whenever it is imported.
    warnings.simplefilter("ignore")
    import executorch.kernels.quantized  # noqa: F401 - brings the operations between bytes and floats
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool
    from executorch.runtime import Program, Runtime


class _ExecuTorchSession:
    def __init__(self, program: Program, export: Export) -> None:
        # A method does not keep its program.
        self._program = program
        self._method = program.load_method("forward")
        self._outputs = export.outputs

    def __call__(self, images: NDArray[np.uint8]) -> Answers:
        # The file takes channels-last tensors, which have the memory of our pictures.
        answers = self._method.execute([torch.from_numpy(images).permute(0, 3, 1, 2)])
        return {name: answer.numpy() for name, answer in zip(self._outputs, answers, strict=True)}


def open_session(path: Path, export: Export, threads: int) -> _ExecuTorchSession:
    """Opens a .pte file, which takes as many pictures at a time as it was written for.

    All sessions of a process share their threads: the number given last counts.

    See :func:`mbv2kit.inference.runtimes.open_session`.
    """
    if _threadpool_get_thread_count() != threads:
        _unsafe_reset_threadpool(threads)
    try:
        return _ExecuTorchSession(Runtime.get().load_program(path), export)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} is no network that ExecuTorch reads ({reason}); export the model again.") from None
