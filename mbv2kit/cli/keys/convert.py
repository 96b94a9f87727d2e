"""What the keys of ``conf/convert.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

from mbv2kit.schema.rules import DISTINCT, FILLED, HeadName, Location, Name


class Keys(TypedDict):
    """All keys."""

    source: Location
    output: Location
    licence: Name | None
    class_names: Location | None
    tasks: Annotated[Sequence[HeadName], FILLED, DISTINCT] | None
