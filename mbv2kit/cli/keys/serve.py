"""What the keys of ``conf/serve.yaml`` may be."""

from collections.abc import Mapping, Sequence
from typing import Annotated, TypedDict

from mbv2kit.cli.keys.infer import Precision, Runtime
from mbv2kit.models.device import Device
from mbv2kit.schema.rules import Cores, Count, Location, Name, Share, above, between

_Seconds = Annotated[float, above(0, 86_400)]


class Keys(TypedDict):
    """All keys."""

    plugins: Sequence[Name]
    checkpoint: Location | None
    weights: Location | None
    models: Mapping[Name, Location]
    class_names: Location | None
    then: Location | None
    then_margin: Annotated[float, between(0, 100)]
    runtime: Runtime
    precision: Precision | None
    threads: Cores | None
    device: Device
    min_score: Share
    draw_min_score: Share
    host: Name
    port: Annotated[int, between(0, 65_535)]
    batch_size: Annotated[int, between(1, 4096)] | None
    max_wait: Annotated[float, between(0, 60_000)]
    queue: Count
    uploads: Count
    max_upload: Annotated[int, between(1, 2**40)] | Name
    transfer_timeout: _Seconds
    stop_timeout: _Seconds
