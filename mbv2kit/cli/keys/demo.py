"""What the keys of ``conf/demo.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

from mbv2kit.cli.keys.infer import Task
from mbv2kit.schema.rules import DISTINCT, FILLED, Location


class Keys(TypedDict):
    """All keys."""

    tasks: Annotated[Sequence[Task], FILLED, DISTINCT]
    run_dir: Location
