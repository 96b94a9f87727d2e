"""What the keys of ``conf/eval.yaml`` may be."""

from collections.abc import Sequence
from typing import TypedDict

from mbv2kit.cli.keys.infer import Precision, Runtime, TestTimeAugmentation
from mbv2kit.cli.keys.train import Loader, Part
from mbv2kit.models.device import Device
from mbv2kit.schema.rules import HeadName, Location, Name, Stride


class Keys(TypedDict):
    """All keys; the options of a registered part are checked by its registry."""

    plugins: Sequence[Name]
    task: HeadName | None
    checkpoint: Location | None
    weights: Location | None
    class_names: Location | None
    dataset: Part | None
    evaluator: Part | None
    split: Name | None
    output_stride: Stride | None
    runtime: Runtime | None
    device: Device
    precision: Precision | None
    tta: TestTimeAugmentation
    loader: Loader
    run_dir: Location | None
