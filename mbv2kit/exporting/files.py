"""Writing one exported file, and taking it into a model folder."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mbv2kit.errors import UserError
from mbv2kit.exporting.formats import FORMATS, find_writer
from mbv2kit.imaging.postprocess import DETECTIONS, OUTPUT_NAMES
from mbv2kit.inference.deployed import DeployedModel
from mbv2kit.inference.runtimes import open_session
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export, Format, Precision, add_export, export_name, files_of, hash_of
from mbv2kit.models.spec import DESCRIPTION_FILE, ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.process import usable_cores
from mbv2kit.structures import Image


def write(
    network: ExportNetwork,
    folder: Path,
    format: Format,
    precision: Precision,
    *,
    batch: int | None = None,
    nms: bool = False,
    calibration: Sequence[Image] | None = None,
) -> Export:
    """Writes a network into a folder.

    Args:
        network: What to write.
        folder: An existing one.
        format: Of the file.
        precision: In which the network shall compute.
        batch: Images at a time; None for any number where the format can, and else 1.
        nms: Whether the file suppresses boxes itself; ONNX with a batch of 1.
        calibration: Inputs that int8 takes its ranges from.

    Returns:
        What was written.

    Raises:
        UserError: A package that writes the format is not installed.
    """
    if batch is None and not FORMATS[format].any_batch:
        batch = 1
    name = export_name(format, precision)
    path = folder / name
    find_writer(format)(network, path, batch=batch, precision=precision, calibration=calibration)
    outputs, nms_options = network.output_names, network.nms_options
    if nms:
        from mbv2kit.exporting.onnx_nms import add_nms

        if nms_options is None:
            raise UserError("nms=true suppresses boxes, but the model has no detector; leave it out.")
        add_nms(path, nms_options, network.size)
        outputs = (DETECTIONS, *(each for each in outputs if each not in OUTPUT_NAMES["detection"]))
    return Export(
        file=name,
        format=format,
        precision=precision,
        size=network.size,
        batch=batch,
        outputs=outputs,
        nms_options=nms_options,
        sha256=hash_of(path),
    )


def open_export(model: VisionModel, folder: Path, export: Export) -> DeployedModel:
    """Opens a file that a model was exported to, in the runtime that its format is checked with."""
    return DeployedModel(
        model.spec,
        partial(open_session, FORMATS[export.format].runtime, folder, export),
        usable_cores(),
        size=export.size,
        batch=export.batch,
        nms_options=export.nms_options,
    )


def keep(export: Export, scratch: Path, folder: Path, spec: ModelSpec) -> None:
    """Moves an exported file into a model folder, which is made where it is not there, and lists it.

    Raises:
        UserError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / DESCRIPTION_FILE).exists():
            (folder / DESCRIPTION_FILE).write_text(json.dumps(spec.to_dict(), indent=2) + "\n", encoding="utf-8")
        for path in files_of(scratch / export.file):
            # Another file system may lie between the two, so a plain rename will not do.
            target = folder / path.name
            unfinished = target.with_name(f".{target.name}.part")
            unfinished.write_bytes(path.read_bytes())
            unfinished.replace(target)
        add_export(folder, export)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); name another folder: output=DIR"
        ) from None
