"""Descriptions of exported files; each file holds a network from images to the arrays of postprocessing."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Annotated, Any, Literal

from mbv2kit.errors import UserError
from mbv2kit.imaging.postprocess import NmsOptions
from mbv2kit.imaging.preprocess import InputType
from mbv2kit.schema import check_value, shown
from mbv2kit.schema.rules import FEW, FILLED, HeadName, Location, Name, Rule, Size, between

Format = Literal["onnx", "openvino", "litert", "executorch"]
Precision = Literal["fp32", "fp16", "int8"]

# What exported files call their input.
INPUT = "images"

# Files lie in the model folder itself: the name leads neither up nor down nor elsewhere.
FileName = Annotated[
    Location, Rule("without a folder", lambda name: name not in (".", "..") and not {"/", "\\"} & set(name))
]
Hash = Annotated[str, Rule("of 64 hexadecimal digits", lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None)]
SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite", "executorch": ".pte"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One exported file.

    Attributes:
        file: Name of the file in the model folder.
        format: Format of the file.
        precision: Precision in which the network computes; ``fp16`` is float16 or bfloat16, as the processor supports.
        size: Height and width of the input, ``(B, height, width, 3)`` RGB in 0..255.
        input: Type of the input's numbers.
        batch: Number of images per batch; None allows any number.
        outputs: Names of the outputs, in order.
        nms_options: NMS options of each detector, by the name of its head.
        sha256: Hash of the file, for OpenVINO of the file with the weights; it identifies timings and caches.
    """

    file: FileName
    format: Format
    precision: Precision
    size: Size
    batch: Annotated[int, between(1, 4096)] | None
    outputs: Annotated[tuple[Name, ...], FILLED, FEW]
    nms_options: Mapping[HeadName, NmsOptions] = field(hash=False)
    sha256: Hash
    input: InputType = "uint8"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Export":
        """Reads what :meth:`to_dict` wrote.

        Raises:
            UserError: A value is missing or of another kind, or the file is none of its format.
            TypeError: There is another key.
        """
        own = {"input": "uint8", **values}
        only, others = own.pop("selection", None), own.pop("selections", {})
        check_value("selection", only, NmsOptions | None, complete=True)
        check_value("selections", others, Mapping[HeadName, NmsOptions])
        nms_options = others if only is None else {"detection": only}
        check_value("", {**own, "nms_options": nms_options}, cls, complete=True)
        if not own["file"].endswith(SUFFIXES[own["format"]]):
            raise UserError(f"file must end in {SUFFIXES[own['format']]}, got {shown(own['file'])}.")
        own["size"], own["outputs"] = tuple(own["size"]), tuple(own["outputs"])
        return cls(**own, nms_options={head: NmsOptions(**options) for head, options in nms_options.items()})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain containers, ready for JSON.

        The NMS options of the usual detector are called ``selection`` there; those of detectors with names of their own
        are in ``selections``.
        """
        own = asdict(self)
        nms_options = own.pop("nms_options")
        own["selection"] = nms_options.get("detection") if len(nms_options) < 2 else None
        if own["selection"] is None and nms_options:
            own["selections"] = nms_options
        return own if self.input != "uint8" else {key: value for key, value in own.items() if key != "input"}


def export_name(format: Format, precision: Precision, *, nms: bool = False) -> str:
    """Returns the name of an exported file: ``model.onnx``, ``model_int8.onnx``, with NMS ``model_nms.onnx``."""
    return f"model{'' if precision == 'fp32' else f'_{precision}'}{'_nms' if nms else ''}{SUFFIXES[format]}"


def files_of(path: Path) -> tuple[Path, ...]:
    """Returns the files of an export: the file itself and, for OpenVINO, the .bin file with the weights."""
    return (path, path.with_suffix(".bin")) if path.suffix == SUFFIXES["openvino"] else (path,)


def hash_of(path: Path) -> str:
    """Returns the SHA-256 of an exported file, in hexadecimal."""
    with files_of(path)[-1].open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
