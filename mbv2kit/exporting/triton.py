"""Lays model repositories, which Triton and OpenVINO Model Server read.

``REPOSITORY/NAME`` holds ``config.pbtxt``, a text file with the names of the classes for each head, and the exported
file as the first version, ``1/model.onnx`` or ``1/model.xml``. Source:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.writing import write_atomically
from mbv2kit.imaging.postprocess import Outputs, output_name
from mbv2kit.models.exports import INPUT, Export, Format, files_of
from mbv2kit.models.spec import ModelSpec
from mbv2kit.texts import shown

_VERSION = "1"
# The backend that runs a format.
_BACKENDS: Mapping[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
# Images that Triton may join to a batch, for a file that takes any number.
_MAX_BATCH = 8
_ESCAPED = re.compile(r'["\\]')


def check_repository(output: Path) -> None:
    """Raises :class:`UserError` unless a folder is new or empty, so that no version that is served is replaced."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output={output} exists already; name a new folder, REPOSITORY/NAME.")


def lay_repository(output: Path, export: Export, scratch: Path, spec: ModelSpec, outputs: Outputs) -> Path:
    """Lays the folder of a model in a repository.

    Args:
        output: The folder, ``REPOSITORY/NAME``.
        export: The exported file.
        scratch: Folder that it lies in.
        spec: What the model is.
        outputs: What the network returns for an image.

    Returns:
        The file in the repository.

    Raises:
        UserError: The folder cannot be written.
    """
    files = [(file, output / _VERSION / f"model{file.suffix}") for file in files_of(scratch / export.file)]
    with disk_errors_told(output):
        files[0][1].parent.mkdir(parents=True, exist_ok=True)
        for source, target in files:
            write_atomically(target, source.read_bytes())
        for head, names in spec.class_names.items():
            write_atomically(output / _labels(head), "".join(f"{shown(name)}\n" for name in names))
        # A server that watches the repository loads a model once it has this file.
        write_atomically(output / "config.pbtxt", config_text(output.resolve().name, export, spec, outputs))
    return files[0][1]


def config_text(name: str, export: Export, spec: ModelSpec, outputs: Outputs) -> str:
    """Returns ``config.pbtxt``: a message ``inference.ModelConfig`` in protobuf's text format.

    Args:
        name: Name of the model.
        export: The exported file.
        spec: What the model is.
        outputs: What the network returns for an image.
    """
    return "\n".join(_lines(name, export, spec, outputs)) + "\n"


def _lines(name: str, export: Export, spec: ModelSpec, outputs: Outputs) -> Iterator[str]:
    # Sides of a batch stand in the shapes only where the network takes one size of batch.
    batch = [] if export.batch is None else [export.batch]
    classifiers = [head for head, task in spec.tasks.items() if task == "classification"]
    labels = {output_name(head, "probabilities"): _labels(head) for head in classifiers}
    yield f"name: {_text(name)}"
    yield f"backend: {_text(_BACKENDS[export.format])}"
    yield f"default_model_filename: {_text(f'model{Path(export.file).suffix}')}"
    yield f"max_batch_size: {_MAX_BATCH if export.batch is None else 0}"
    if export.batch is None:
        yield "dynamic_batching { }"
    yield f"input {{ {_tensor(INPUT, export.input, [*batch, *export.size, 3])} }}"
    for output in export.outputs:
        array: NDArray[Any] = outputs[output]
        own = f" label_filename: {_text(labels[output])}" if output in labels else ""
        yield f"output {{ {_tensor(output, array.dtype.name, [*batch, *array.shape[1:]])}{own} }}"
    # For clients, which prepare the images and suppress boxes.
    parameters = {"input": asdict(spec.input) | {"size": export.size}}
    parameters |= {output_name(head, "nms_options"): asdict(own) for head, own in export.nms_options.items()}
    for key, value in parameters.items():
        yield f"parameters {{ key: {_text(key)} value {{ string_value: {_text(json.dumps(value))} }} }}"


def _tensor(name: str, kind: str, shape: list[int]) -> str:
    return f"name: {_text(name)} data_type: {_TYPES[kind]} dims: {shape}"


def _labels(head: str) -> str:
    return f"{head}_labels.txt"


def _text(text: str) -> str:
    """Quotes a text: bytes that are no printable ASCII are octal."""
    data = _ESCAPED.sub(r"\\\g<0>", text).encode()
    quoted = "".join(chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in data)
    return f'"{quoted}"'
