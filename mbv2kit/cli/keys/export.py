"""What the keys of ``conf/export.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

from mbv2kit.cli.keys.infer import Precision
from mbv2kit.cli.keys.train import Part
from mbv2kit.schema.rules import Count, Location, Locations, Name, Share, Size, Stride, between


class Keys(TypedDict):
    """All keys; the options of a registered part are checked by its registry."""

    plugins: Sequence[Name]
    checkpoint: Location | None
    weights: Location | None
    class_names: Location | None
    output: Location | None
    format: Literal["onnx", "openvino", "litert", "executorch", "triton", "triton_openvino"]
    precision: Precision
    size: Size | None
    output_stride: Stride | None
    batch: Annotated[int, between(1, 4096)] | None
    nms: bool
    calibration: Locations | None
    calibration_pictures: Count
    max_loss: Share
    accuracy_pictures: Count | None
    sensitive_layers: Annotated[int, between(0, 1_000_000)]
    pictures: Locations | None
    check_pictures: Count
    dataset: Part | None
