"""Writes OpenVINO models: an .xml file with the network, and a .bin file of the same name with the weights."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mbv2kit.exporting.fp16 import round_to
from mbv2kit.exporting.onnx import export_onnx
from mbv2kit.exporting.quiet import quietly
from mbv2kit.inference.runtimes.openvino import without_telemetry
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.exports import Precision
from mbv2kit.structures import Image

with without_telemetry():
    import openvino as ov
    from openvino.passes import ConstantFolding, Manager

# Constants, inputs and shapes are no arithmetic that could be quantized. A shape may be that of any tensor, so the
# search does not go beyond it.
_NO_ARITHMETIC = frozenset({"Constant", "Parameter", "ShapeOf"})


def export_openvino(
    network: ExportNetwork,
    path: Path,
    *,
    batch: int | None,
    precision: Precision,
    calibration: Sequence[Image] | None,
) -> None:
    """Writes a network as an OpenVINO model, with its precision under ``mbv2kit`` in its ``rt_info``.

    Args:
        network: The network to write.
        path: The .xml file; the .bin file has the same name.
        batch: Number of images per batch; None allows any number.
        precision: ``fp16`` halves the file. The processor that runs it decides between float16 and bfloat16; weights
            are rounded to the type that this processor supports.
        calibration: Inputs from which int8 takes its ranges, ``(H, W, 3)`` uint8 each; a few hundred are enough.
    """
    if precision == "fp16":
        has_bfloat16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        network = round_to(network, torch.bfloat16 if has_bfloat16 else torch.float16)
    with TemporaryDirectory() as folder, quietly():
        # Converted from ONNX, the graph is a quarter of one converted from torch, and inputs and outputs have names.
        # OpenVINO's converter for torch also sends telemetry.
        onnx = Path(folder) / "model.onnx"
        export_onnx(network, onnx)
        model = ov.Core().read_model(onnx)
        simplify = Manager()
        simplify.register_pass(ConstantFolding())
        simplify.run_passes(model)
        if precision == "int8":
            assert calibration is not None
            model = _quantize(model, calibration)
        if batch is not None:
            model.reshape([batch, *network.size, 3])
        model.set_rt_info(precision, ["mbv2kit", "precision"])
        ov.save_model(model, path, compress_to_fp16=precision == "fp16")


def _quantize(model: ov.Model, calibration: Sequence[Image]) -> ov.Model:
    """Quantizes weights by channel and activations by tensor with NNCF, which also corrects the biases."""
    with without_telemetry():
        import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(calibration, lambda image: image[None]),
        # Symmetric ranges: zero points made ImageNet and VOC networks no more accurate, and up to a tenth slower.
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=_after_last_layers(model)),
    )


def _after_last_layers(model: ov.Model) -> list[str]:
    """Names the operations after the last layers, where 8 bits would cost accuracy and save no time.

    These are softmax, the decoding of boxes, interpolation and arg-max.
    """
    names = set()
    open_nodes = list(model.get_results())
    while open_nodes:
        for value in open_nodes.pop().input_values():
            node = value.get_node()
            if node.get_friendly_name() in names or _is_layer(node) or node.get_type_name() in _NO_ARITHMETIC:
                continue
            names.add(node.get_friendly_name())
            open_nodes.append(node)
    return sorted(names)


def _is_layer(node: ov.Node) -> bool:
    # Matrix products that interpolate return maps, a linear layer returns rows.
    kind = node.get_type_name()
    return kind in ("Convolution", "GroupConvolution") or (
        kind == "MatMul" and node.get_output_partial_shape(0).rank.get_length() == 2
    )
