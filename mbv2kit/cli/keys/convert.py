"""What the keys of ``conf/convert.yaml`` may be."""

from typing import TypedDict

from mbv2kit.schema.rules import Location, Name


class Keys(TypedDict):
    """All keys."""

    source: Location
    output: Location
    licence: Name | None
    class_names: Location | None
