"""ExecuTorch with XNNPACK on the CPU; its Python binding needs torch for tensors."""

from pathlib import Path
from weakref import WeakSet

# executorch.runtime is the public form of this module, but it imports the compiler, which takes seconds.
import executorch.extension.pybindings._C as binding  # noqa: N811
import executorch.kernels.quantized  # noqa: F401 - registers operations between bytes and floats
import torch

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.models.exports import Export
from mbv2kit.process import silence_stderr
from mbv2kit.structures import Input


class _ExecuTorchSession:
    def __init__(self, path: Path, export: Export) -> None:
        # A method does not keep its program alive.
        self._program = binding._load_program(str(path), program_verification=binding.Verification.InternalConsistency)
        self._method = self._program.load_method("forward")
        self._outputs = export.outputs

    def __call__(self, images: Input) -> Outputs:
        # The file takes channels-last tensors, which have the memory layout of the images.
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
        # Copies of large outputs by torch take as long as the network, because its threads and those of the network
        # compete.
        outputs = self._method.call([tensor], clone_outputs=False)
        return {name: array.numpy().copy() for name, array in zip(self._outputs, outputs, strict=True)}


_open: WeakSet[_ExecuTorchSession] = WeakSet()


def open_session(path: Path, export: Export, threads: int) -> _ExecuTorchSession:
    """Opens a .pte file, which has a fixed batch size.

    All sessions of a process share threads, as many as the first open session requested: replacing the threads would
    crash open networks. A call holds Python's lock, so calls wait for each other.

    See :func:`mbv2kit.inference.runtimes.open_session`.
    """
    try:
        with silence_stderr():
            if not _open and binding._threadpool_get_thread_count() != threads:
                binding._unsafe_reset_threadpool(threads)
            session = _ExecuTorchSession(path, export)
    except (RuntimeError, KeyError) as error:
        reason = one_line(error)
        raise UserError(
            f"{path} is not a network that ExecuTorch can read ({reason}); export the model again."
        ) from None
    _open.add(session)
    return session
