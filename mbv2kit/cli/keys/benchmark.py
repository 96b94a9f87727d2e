"""What the keys of ``conf/benchmark.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

from mbv2kit.cli.keys.infer import Keys as InferKeys
from mbv2kit.schema.rules import FILLED, Cores, Location, Locations, Names, between


class Models(TypedDict):
    """Keys of ``models``."""

    classification: Locations | None
    detection: Locations | None
    segmentation: Locations | None


class Pythons(TypedDict):
    """Keys of ``python``."""

    torch: Location | None
    torchvision: Location | None
    timm: Location | None
    transformers: Location | None
    ultralytics: Location | None
    numpy: Location | None
    cv2: Location | None
    onnxruntime: Location | None
    openvino: Location | None
    nncf: Location | None
    litert: Location | None
    litert_torch: Location | None
    executorch: Location | None


class Keys(TypedDict):
    """All keys."""

    jobs: Names | None
    models: Models
    infer: Annotated[Sequence[InferKeys], FILLED]
    contenders: Names | None
    output: Location | None
    results: Location | None
    page: Location | None
    shared: Location | None
    pictures: Location | None
    materials: Location
    rounds: Annotated[int, between(1, 10_000)]
    slice: Annotated[float, between(0, 3600)]
    warm_up: Annotated[float, between(0, 3600)]
    threads: Cores | None
    python: Pythons
