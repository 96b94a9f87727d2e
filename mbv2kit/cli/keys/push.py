"""What the keys of ``conf/push.yaml`` may be."""

from collections.abc import Sequence
from typing import TypedDict

from mbv2kit.schema.rules import Location, Name, Repository


class Keys(TypedDict):
    """All keys."""

    plugins: Sequence[Name]
    checkpoint: Location | None
    repository: Repository
    private: bool
    message: Name
    dry_run: Location | None
