"""Writes an exported file, and adds it to a model folder."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path

from mbv2kit.errors import UserError
from mbv2kit.exporting.formats import FORMATS, find_writer
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.imaging.postprocess import DETECTIONS, OUTPUT_NAMES, output_name
from mbv2kit.imaging.preprocess import as_type
from mbv2kit.inference.exported import open_export
from mbv2kit.inference.predictor import Predictor
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Export, Format, Precision, export_name, hash_of
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.spec import ModelSpec
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
        network: The network to write.
        folder: An existing folder.
        format: Format of the file.
        precision: Precision in which the network computes.
        batch: Number of images per batch; None allows any number if the format does, and is 1 otherwise.
        nms: Whether the file includes non-maximum suppression; only ONNX with a batch size of 1.
        calibration: Inputs from which int8 takes its ranges.

    Returns:
        The description of the file.

    Raises:
        UserError: A package that writes the format is missing, or ``nms`` is True and the model has no detector.
    """
    if batch is None and not FORMATS[format].any_batch:
        batch = 1
    name = export_name(format, precision, nms=nms)
    path = folder / name
    if precision != "fp32" and network.input_type != "uint8":
        # Coarser numbers gain nothing from exact pixels, and quantizers know bytes best.
        network = copy(network)
        network.input_type = "uint8"
    if calibration is not None:
        calibration = [as_type(image, network.input_type) for image in calibration]
    find_writer(format)(network, path, batch=batch, precision=precision, calibration=calibration)
    outputs, nms_options = network.output_names, network.nms_options
    if nms:
        from mbv2kit.exporting.onnx_nms import add_nms

        if not nms_options:
            raise UserError("nms=true suppresses boxes, but the model has no detector; leave it out.")
        for head, own in nms_options.items():
            add_nms(path, own, network.size, head)
            replaced = [output_name(head, name) for name in OUTPUT_NAMES["detection"]]
            outputs = (*(each for each in outputs if each not in replaced), output_name(head, DETECTIONS))
    return Export(
        file=name,
        format=format,
        precision=precision,
        size=network.size,
        batch=batch,
        outputs=outputs,
        nms_options=nms_options,
        sha256=hash_of(path),
        input=network.input_type,
    )


def open_for_check(model: VisionModel, folder: Path, export: Export) -> Predictor:
    """Opens a file that a model was exported to, in the runtime that its format is checked with."""
    return open_export(model.spec, folder, export, FORMATS[export.format].runtime, usable_cores())


def keep(export: Export, scratch: Path, folder: Path, spec: ModelSpec) -> None:
    """Moves an exported file into a model folder, which is created if it is missing, and lists it there.

    Raises:
        UserError: The folder cannot be written.
    """
    target = ModelFolder(folder)
    with disk_errors_told(folder):
        target.describe(spec)
        target.add_export(export, scratch)
