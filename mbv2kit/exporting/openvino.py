"""OpenVINO: an .xml file that describes the network, and beside it a .bin file with the weights."""

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

# A shape is no value that could be rounded, and what it is the shape of may lie anywhere in the network.
_NO_ARITHMETIC = frozenset({"Constant", "Parameter", "ShapeOf"})


def export_openvino(
    network: ExportNetwork,
    path: Path,
    *,
    batch: int | None,
    precision: Precision,
    calibration: Sequence[Image] | None,
) -> None:
    """Writes a network as an OpenVINO model, which also says its precision under ``mbv2kit`` in its ``rt_info``.

    Args:
        network: What to write.
        path: The .xml file; the .bin file has the same name.
        batch: Images at a time; None for any number.
        precision: ``fp16`` halves the file; in which half floats it is computed is the processor's affair. Weights are
            rounded to what this one has, bfloat16 or float16.
        calibration: Inputs to take the ranges of int8 from, ``(H, W, 3)`` uint8 each; some hundred are enough.
    """
    if precision == "fp16":
        has_bfloat16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        network = round_to(network, torch.bfloat16 if has_bfloat16 else torch.float16)
    with TemporaryDirectory() as folder, quietly():
        # By way of ONNX the graph is a quarter of what OpenVINO's own reading of torch modules gives, the inputs and
        # outputs have their names, and nothing is reported to OpenVINO's makers as its converter does.
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
    """Quantizes weights by channel and activations by tensor, and corrects the biases for the mean error (NNCF)."""
    with without_telemetry():
        import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(calibration, lambda image: image[None]),
        # Ranges are symmetric about zero: with a zero point for each, ImageNet's and VOC's networks are no more
        # accurate, and up to a tenth slower.
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=_behind_last_layers(model)),
    )


def _behind_last_layers(model: ov.Model) -> list[str]:
    """Names what turns the outputs of the last layers into answers, where eight bits would cost accuracy and save none.

    Those are softmax, the decoding of boxes, interpolation and arg-max, wherever the outputs come from.
    """
    names = set()
    left = list(model.get_results())
    while left:
        for value in left.pop().input_values():
            node = value.get_node()
            if node.get_friendly_name() in names or _is_layer(node) or node.get_type_name() in _NO_ARITHMETIC:
                continue
            names.add(node.get_friendly_name())
            left.append(node)
    return sorted(names)


def _is_layer(node: ov.Node) -> bool:
    # The products of matrices that interpolate have maps as outputs, a linear layer has rows.
    kind = node.get_type_name()
    return kind in ("Convolution", "GroupConvolution") or (
        kind == "MatMul" and node.get_output_partial_shape(0).rank.get_length() == 2
    )
