"""Converts published weights to a model folder: the job of ``mbv2kit convert``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mbv2kit.backbones import BACKBONES
from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.weights.class_names import with_class_names
from mbv2kit.weights.open import open_model


def convert(
    source: str,
    output: str,
    *,
    license: str | None = None,
    class_names: str | None = None,
    tasks: Sequence[str] | None = None,
) -> None:
    """Reads weights, writes them as a model folder and prints a summary.

    Args:
        source: A file, a folder or a name; see :func:`mbv2kit.weights.open.open_model`.
        output: The folder to create.
        license: License of the weights, instead of the one that the source states.
        class_names: Text file with the names of the classes, instead of those in the source.
        tasks: The heads that are kept, by their tasks or names; None keeps all.

    Raises:
        UserError: The source cannot be read or lacks a head, or the output already holds a model; nothing is
            written then.
    """
    folder = Path(output)
    if ModelFolder(folder).exists:
        raise UserError(f"output={output} holds a model; name another folder.")
    model, _ = open_model(source)
    if tasks is not None:
        model = model.with_heads(tasks)
    spec = model.spec
    if license is not None:
        spec = replace(spec, origin={**spec.origin, "licence": license})
    model.spec = with_class_names(spec, class_names)
    with disk_errors_told(folder):
        model.save(folder)
    print(f"{source} is converted to the model in {folder}:")
    for line in _summary(model):
        print(f"  {line}")


def _summary(model: VisionModel) -> list[str]:
    spec = model.spec
    parameters = sum(parameter.numel() for parameter in model.parameters())
    height, width = spec.input.size
    usual = BACKBONES.options(spec.backbone["name"]) | {"name": spec.backbone["name"]}
    chosen = ", ".join(f"{key}={value}" for key, value in spec.backbone.items() if value != usual[key])
    network = spec.backbone["name"] + (f" with {chosen}" if chosen else "")
    lines = [f"{network}: {parameters / 1e6:.2f} M parameters"]
    for head in spec.heads:
        names = spec.class_names[head]
        known = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        lines.append(
            f"{head} by {spec.heads[head]['name']}, {len(names)} class{'es' if len(names) > 1 else ''}: {known}"
        )
    lines.append(f"input {width} x {height} by {spec.input.resize}, mean {spec.mean}, std {spec.std} in 0..255")
    lines.append(f"license: {spec.origin.get('licence', 'not stated')}")
    left_out = spec.origin.get("left_out", [])
    if left_out:
        lines.append(
            f"left out: {len(left_out)} tensors that this network does not have: {', '.join(left_out[:4])}, ..."
        )
    return lines
