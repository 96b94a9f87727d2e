"""What the keys of ``conf/paper.yaml`` may be."""

from typing import TypedDict

from mbv2kit.schema.rules import Location, Names


class Keys(TypedDict):
    """All keys."""

    tables: Names | None
    output: Location | None
    runs: Location
