"""The table of runtimes: libraries that open an exported file as a session."""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.imaging.preprocess import as_type
from mbv2kit.memory import ran_out_of_memory
from mbv2kit.models.exports import Export, Format
from mbv2kit.models.session import Session

RuntimeName = Literal["onnxruntime", "openvino", "litert", "executorch"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A library that runs exported networks; the module of this package with its name opens them.

    Attributes:
        package: Package to import.
        distribution: Name of the package for pip.
        install: Argument of pip install.
        reads: Formats that it reads, the preferred one first.
        parallel: Whether sessions of one process run in parallel; otherwise they wait for each other.
    """

    package: str
    distribution: str
    install: str
    reads: tuple[Format, ...]
    parallel: bool = True

    @property
    def version(self) -> str | None:
        """The installed version, which is found without an import; None if it is not installed."""
        try:
            return version(self.distribution) if find_spec(self.package) is not None else None
        except PackageNotFoundError:
            return None


RUNTIMES: dict[RuntimeName, Runtime] = {
    "onnxruntime": Runtime("onnxruntime", "onnxruntime", "onnxruntime", ("onnx",)),
    "openvino": Runtime("openvino", "openvino", "'mbv2kit[deploy]'", ("openvino", "onnx")),
    "litert": Runtime("ai_edge_litert", "ai-edge-litert", "'mbv2kit[deploy]'", ("litert",)),
    "executorch": Runtime("executorch", "executorch", "'mbv2kit[executorch]'", ("executorch",), parallel=False),
}


def open_session(runtime: RuntimeName, folder: Path, export: Export, threads: int) -> Session:
    """Opens an exported file in a runtime.

    Args:
        runtime: Name of the runtime.
        folder: Model folder of the file.
        export: Description of the file.
        threads: Number of threads for one call.

    Raises:
        UserError: The runtime is not installed, or the file is damaged; the session raises it too if it cannot run.
    """
    if RUNTIMES[runtime].version is None:
        raise UserError(f"runtime={runtime} is not installed; run: pip install {RUNTIMES[runtime].install}")
    module = import_module(f"mbv2kit.inference.runtimes.{runtime}")
    return _Explained(
        module.open_session(folder / export.file, export, threads), f"runtime={runtime}", folder / export.file, export
    )


class _Explained:
    """Runs a session on numbers of the file's type, and turns what its library raises into a sentence.

    A file that opens may still fail as it runs, for instance where it takes another input than ``model.json`` says.
    """

    def __init__(self, session: Session, runtime: str, file: Path, export: Export) -> None:
        self._session = session
        self._runtime = runtime
        self._file = file
        self._type = export.input

    def __call__(self, images: NDArray[Any]) -> Outputs:
        try:
            return self._session(as_type(images, self._type))
        except Exception as error:  # every library has its own classes
            size = " x ".join(map(str, images.shape))
            if ran_out_of_memory(error):
                raise UserError(
                    f"{self._file} needs more memory in {self._runtime} than there is, on an input of {size} "
                    f"{self._type}; use a smaller batch, or a file for a smaller input."
                ) from error
            raise UserError(
                f"{self._file} fails in {self._runtime} on an input of {size} {self._type} ({one_line(error)}); "
                "export the model again."
            ) from error
