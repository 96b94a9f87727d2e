"""Writes an ONNX file at the end of every training run, so that inference is fast without an export."""

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mbv2kit.exporting.check import check
from mbv2kit.exporting.files import keep, open_for_check, write
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Image

_log = logging.getLogger(__name__)


def export_trained(model: VisionModel, folder: Path, inputs: Sequence[Image]) -> None:
    """Adds ``model.onnx`` to a model folder if its outputs are those of the model; otherwise logs the reason.

    A failed export never fails the training run.

    Args:
        model: Model in evaluation mode, as saved in ``folder``.
        folder: The model folder.
        inputs: Inputs on which outputs are compared, ``(H, W, 3)`` uint8 each.
    """
    network = ExportNetwork(model).eval()
    with TemporaryDirectory() as scratch:
        try:
            export = write(network, Path(scratch), "onnx", "fp32")
        except torch.onnx.OnnxExporterError as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            _log.warning("the model could not be written as ONNX (%s); PyTorch runs it", reason)
            return
        report = check(model, open_for_check(model, Path(scratch), export), export, inputs)
        if not report.agrees:
            found = "; ".join(f"{each.what}: {each.value}" for each in report.findings if not each.kept)
            _log.warning("the outputs of %s differ from those of the model (%s); it was not kept", export.file, found)
            return
        keep(export, Path(scratch), folder, model.spec)
    ours, torchs = report.milliseconds
    _log.info("%s: %.1f ms an image, PyTorch %.1f", folder / export.file, ours, torchs)
