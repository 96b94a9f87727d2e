"""The formats of exported files: how each is written, in which precisions, and which runtime checks it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from mbv2kit.errors import UserError
from mbv2kit.exporting.quiet import quietly
from mbv2kit.inference.runtimes import RuntimeName
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Format, Precision
from mbv2kit.structures import Image


class Writer(Protocol):
    """Writes a network in one format."""

    def __call__(
        self,
        network: ExportNetwork,
        path: Path,
        *,
        batch: int | None,
        precision: Precision,
        calibration: Sequence[Image] | None,
    ) -> None:
        """Writes ``path``; ``calibration`` holds inputs for int8 and is None for other precisions."""


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """How a format is written.

    Attributes:
        writer: Name of the function that writes it, in the module of this package with the format's name.
        packages: Packages that the module imports; the values are arguments of pip install.
        precisions: Supported precisions.
        runtime: Runtime that checks the file.
        any_batch: Whether a file can take batches of any size.
    """

    writer: str
    packages: dict[str, str]
    precisions: tuple[Precision, ...]
    runtime: RuntimeName
    any_batch: bool


FORMATS: dict[Format, FormatInfo] = {
    "onnx": FormatInfo(
        "export_onnx", {"onnx": "onnx", "onnxscript": "onnxscript"}, ("fp32", "int8"), "onnxruntime", True
    ),
    "openvino": FormatInfo(
        "export_openvino",
        {"openvino": "'mbv2kit[deploy]'", "nncf": "'mbv2kit[deploy]'"},
        ("fp32", "fp16", "int8"),
        "openvino",
        True,
    ),
    "litert": FormatInfo(
        "export_litert", {"litert_torch": "'mbv2kit[litert]'"}, ("fp32", "fp16", "int8"), "litert", False
    ),
    "executorch": FormatInfo(
        "export_executorch", {"executorch": "'mbv2kit[executorch]'"}, ("fp32", "fp16", "int8"), "executorch", False
    ),
}


# What lays a model repository: the format of the file in it.
REPOSITORIES: dict[str, Format] = {"triton": "onnx", "triton_openvino": "openvino"}


def find_writer(format: Format) -> Writer:
    """Returns the function that writes a format; raises :class:`UserError` if a package for it is missing."""
    info = FORMATS[format]
    for package, install in info.packages.items():
        if find_spec(package) is None:
            raise UserError(f"format={format} needs the package {package}; run: pip install {install}")
    with quietly():
        module = import_module(f"mbv2kit.exporting.{format}")
    writer: Writer = getattr(module, info.writer)
    return writer
