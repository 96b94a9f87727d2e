"""What the keys of ``conf/infer.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

from mbv2kit.models.device import Device
from mbv2kit.schema.rules import Cores, HeadName, Location, Name, Share, Stride, between

Runtime = Literal["auto", "torch", "onnxruntime", "openvino", "litert", "executorch"]
Precision = Literal["fp32", "fp16", "int8"]


class _TestTimeAugmentation(TypedDict):
    name: Literal["none", "multiscale_flip"]


class TestTimeAugmentation(_TestTimeAugmentation, total=False):
    """Keys of the group ``tta``; ``none`` has no more than its name."""

    scales: Sequence[Annotated[float, between(0.1, 4)]] | None
    flip: bool


class PredictorKeys(TypedDict):
    """Keys of what predicts."""

    plugins: Sequence[Name]
    checkpoint: Location | None
    weights: Location | None
    class_names: Location | None
    then: Location | None
    then_margin: Annotated[float, between(0, 100)]
    runtime: Runtime
    precision: Precision | None
    threads: Cores | None
    device: Device
    min_score: Share
    draw_min_score: Share


class Keys(PredictorKeys):
    """All keys."""

    task: HeadName | None
    compile: bool
    output_stride: Stride | None
    tta: TestTimeAugmentation
    output: Location | None
    resume: bool
    save_images: bool
    memory_budget: Annotated[int, between(1, 2**50)] | Name | None
    batch_size: Annotated[int, between(1, 65_536)] | None
