"""What the keys of ``conf/demo.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

from mbv2kit.schema.rules import DISTINCT, FILLED, Location
from mbv2kit.structures import Task


class Keys(TypedDict):
    """All keys."""

    tasks: Annotated[Sequence[Task], FILLED, DISTINCT]
    run_dir: Location
