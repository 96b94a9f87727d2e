"""What the keys of ``conf/cut_objects.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

from mbv2kit.cli.keys.train import Part
from mbv2kit.schema.rules import Location, Name, between


class Keys(TypedDict):
    """All keys; the options of a registered part are checked by its registry."""

    plugins: Sequence[Name]
    dataset: Part
    output: Location
    margin: Annotated[float, between(0, 100)]
