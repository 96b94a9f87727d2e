"""Writes ONNX files with torch's exporter; ONNX Runtime, OpenVINO and many others read them."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mbv2kit.exporting.quiet import quietly
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import INPUT, Precision
from mbv2kit.structures import Image


def export_onnx(
    network: ExportNetwork,
    path: Path,
    *,
    batch: int | None = None,
    precision: Precision = "fp32",
    calibration: Sequence[Image] | None = None,
) -> None:
    """Writes a network as one ONNX file.

    Args:
        network: The network to write.
        path: The file.
        batch: Number of images per batch; None allows any number.
        precision: ``fp32`` or ``int8``.
        calibration: Inputs from which int8 takes its ranges.
    """
    if precision == "fp32":
        _export(network, path, batch)
        return
    from mbv2kit.exporting.onnx_int8 import quantize_onnx

    assert calibration is not None
    with TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.onnx"
        _export(network, exact, batch)
        quantize_onnx(exact, path, calibration)


def _export(network: ExportNetwork, path: Path, batch: int | None) -> None:
    # torch.export treats a batch of one as a constant.
    example = network.example(batch or 2)
    shapes = ({0: torch.export.Dim.DYNAMIC},) if batch is None else None
    with quietly():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(network.output_names),
            dynamic_shapes=shapes,
            verbose=False,
        )
        assert program is not None
        program.save(path)
