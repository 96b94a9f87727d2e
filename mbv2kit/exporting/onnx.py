"""ONNX, by torch's own exporter: read by ONNX Runtime, OpenVINO and many more."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mbv2kit.exporting.quiet import quietly
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Precision
from mbv2kit.structures import Image

INPUT = "images"


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
        network: What to write.
        path: The file.
        batch: Images at a time; None for any number.
        precision: ``fp32`` or ``int8``.
        calibration: Inputs that int8 takes its ranges from.
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
    # A batch of one would be taken for a constant.
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
