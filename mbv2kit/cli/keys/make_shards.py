"""What the keys of ``conf/make_shards.yaml`` may be."""

from collections.abc import Sequence
from typing import Annotated, TypedDict

from mbv2kit.cli.keys.train import Part
from mbv2kit.schema.rules import DISTINCT, FILLED, Count, Location, Name, Seed, Workers
from mbv2kit.structures import Task


class Keys(TypedDict):
    """All keys; the options of a registered part are checked by its registry."""

    plugins: Sequence[Name]
    dataset: Part
    output: Location
    tasks: Annotated[Sequence[Task], FILLED, DISTINCT] | None
    images_per_shard: Count
    shuffle: bool
    seed: Seed
    workers: Workers | None
