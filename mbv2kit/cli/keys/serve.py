"""What the keys of ``conf/serve.yaml`` may be."""

from collections.abc import Mapping
from typing import Annotated

from mbv2kit.cli.keys.infer import PredictorKeys
from mbv2kit.schema.rules import Count, Location, Name, above, between

_Seconds = Annotated[float, above(0, 86_400)]


class Keys(PredictorKeys):
    """All keys."""

    models: Mapping[Name, Location]
    host: Name
    port: Annotated[int, between(0, 65_535)]
    batch_size: Annotated[int, between(1, 4096)] | None
    max_wait: Annotated[float, between(0, 60_000)]
    queue: Count
    uploads: Count
    max_upload: Annotated[int, between(1, 2**40)] | Name
    transfer_timeout: _Seconds
    stop_timeout: _Seconds
