"""What a runtime is to the rest of the house: something that opens a file and answers pictures."""

from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mbv2kit.answers import Answers
from mbv2kit.exports import Export, Format

RuntimeName = Literal["torch", "onnxruntime", "openvino", "litert", "executorch"]

# Formats that each runtime reads, the preferred one first. The module of the same name beside this file opens them.
READS: dict[RuntimeName, tuple[Format, ...]] = {
    "onnxruntime": ("onnx",),
    "openvino": ("openvino", "onnx"),
    "litert": ("litert",),
    "executorch": ("executorch",),
}


class Session(Protocol):
    """An exported network that is open, ready to run."""

    def __call__(self, images: NDArray[np.uint8]) -> Answers:
        """Answers ``(B, H, W, 3)`` uint8 RGB inputs of the export's size; the arrays are the caller's to keep."""


def open_session(runtime: RuntimeName, folder: Path, export: Export, threads: int) -> Session:
    """Opens an exported file in a runtime.

    Args:
        runtime: Which one.
        folder: Model folder that the file lies in.
        export: The file.
        threads: How many may work on one call.

    Raises:
        UserError: The runtime is not installed, or the file is damaged.
    """
    module = import_module(f"mbv2kit.inference.runtimes.{runtime}")
    session: Session = module.open_session(folder / export.file, export, threads)
    return session
