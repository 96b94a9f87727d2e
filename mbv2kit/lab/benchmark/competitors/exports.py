"""Exports networks of other libraries to files, by the API of each library; workers call this to make assets."""

from pathlib import Path
from typing import Any

from mbv2kit.lab.benchmark.competitors.constants import SIZE
from mbv2kit.lab.benchmark.competitors.images import normalize, pixels, to_planes
from mbv2kit.lab.benchmark.workload import Workload

_CALIBRATION_IMAGES = 16


def onnx(path: str, files: dict[str, str], batch: int) -> Workload:
    """Writes torchvision's MobileNetV2 as ONNX."""
    import torch
    import torchvision

    model = torchvision.models.mobilenet_v2().eval()
    _save_onnx(model, torch.zeros(batch, 3, SIZE, SIZE), path)
    return Workload({})


def ssdlite_onnx(path: str, files: dict[str, str]) -> Workload:
    """Writes torchvision's SSDLite on MobileNetV3 as ONNX, without anchors, softmax and NMS."""
    import torch
    import torchvision
    from torch import Tensor, nn

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights_backbone=None).eval()
            self.backbone, self.head = whole.backbone, whole.head

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.head(list(self.backbone(images).values())).values())

    _save_onnx(Bare().eval(), torch.zeros(1, 3, 320, 320), path)
    return Workload({})


def _save_onnx(model: Any, example: Any, path: str) -> None:
    import torch

    program = torch.onnx.export(model, (example,), dynamo=True, verbose=False)
    assert program is not None
    program.save(path)


def onnx_int8(path: str, files: dict[str, str], batch: int) -> Workload:
    """Quantizes an ONNX file with ONNX Runtime, statically and per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            images = pixels(_CALIBRATION_IMAGES, SIZE, SIZE)
            batches = (to_planes(normalize(images[i : i + 1].repeat(batch, axis=0))) for i in range(len(images)))
            self._inputs = ({name: each} for each in batches)

        def get_next(self) -> object:
            return next(self._inputs, None)

    import onnx

    prepared = f"{path}.prepared"
    (source,) = files.values()
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    name = onnx.load(prepared).graph.input[0].name
    quantize_static(
        prepared,
        path,
        Images(name),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    Path(prepared).unlink()
    return Workload({})


def openvino_int8(path: str, files: dict[str, str], batch: int) -> Workload:
    """Quantizes an ONNX file with NNCF, for OpenVINO."""
    import nncf
    import openvino as ov

    (source,) = files.values()
    images = pixels(_CALIBRATION_IMAGES, SIZE, SIZE)
    batches = [to_planes(normalize(images[i : i + 1].repeat(batch, axis=0))) for i in range(len(images))]
    model = nncf.quantize(ov.Core().read_model(source), nncf.Dataset(batches), subset_size=len(batches))
    ov.save_model(model, path, compress_to_fp16=False)
    return Workload({})


def litert(path: str, files: dict[str, str], batch: int) -> Workload:
    """Writes torchvision's MobileNetV2 for LiteRT, with channels-last input, which is faster."""
    import litert_torch
    import torch
    import torchvision

    model = litert_torch.to_channel_last_io(torchvision.models.mobilenet_v2().eval(), args=[0])
    litert_torch.convert(model, (torch.zeros(batch, SIZE, SIZE, 3),)).export(path)
    return Workload({})


def executorch(path: str, files: dict[str, str], batch: int) -> Workload:
    """Writes torchvision's MobileNetV2 for ExecuTorch, delegated to XNNPACK."""
    import torch
    import torchvision
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    example = (torch.zeros(batch, 3, SIZE, SIZE),)
    program = torch.export.export(torchvision.models.mobilenet_v2().eval(), example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    Path(path).write_bytes(lowered.buffer)
    return Workload({})
