"""ExecuTorch with XNNPACK on the CPU; its Python binding needs torch for tensors."""

from pathlib import Path
from weakref import WeakSet

# executorch.runtime has the same in a public form, but brings the compiler along and takes seconds to import.
import executorch.extension.pybindings._C as binding  # noqa: N811
import executorch.kernels.quantized  # noqa: F401 - brings the operations between bytes and floats
import numpy as np
import torch
from numpy.typing import NDArray

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.models.exports import Export
from mbv2kit.process import silence_stderr


class _ExecuTorchSession:
    def __init__(self, path: Path, export: Export) -> None:
        # A method does not keep its program.
        self._program = binding._load_program(str(path), program_verification=binding.Verification.InternalConsistency)
        self._method = self._program.load_method("forward")
        self._outputs = export.outputs

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        # The file takes channels-last tensors, which have the memory of our images.
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
        # Of torch's making, the copies of large answers took as long as the network: its threads and the network's
        # get in each other's way.
        outputs = self._method.call([tensor], clone_outputs=False)
        return {name: array.numpy().copy() for name, array in zip(self._outputs, outputs, strict=True)}


_open: WeakSet[_ExecuTorchSession] = WeakSet()


def open_session(path: Path, export: Export, threads: int) -> _ExecuTorchSession:
    """Opens a .pte file, which takes as many images at a time as it was written for.

    All sessions of a process work on the same threads, as many as the first of those still open was given: replacing
    them would crash the networks that are open. A call holds Python's lock, so one waits for the other.

    See :func:`mbv2kit.inference.runtimes.open_session`.
    """
    try:
        with silence_stderr():
            if not _open and binding._threadpool_get_thread_count() != threads:
                binding._unsafe_reset_threadpool(threads)
            session = _ExecuTorchSession(path, export)
    except (RuntimeError, KeyError) as error:
        reason = one_line(error)
        raise UserError(f"{path} is no network that ExecuTorch reads ({reason}); export the model again.") from None
    _open.add(session)
    return session
