"""The calls that a worker times."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Workload:
    """A competitor that has been set up.

    Attributes:
        calls: For each measure, the function to time.
        facts: Further information, in JSON's types.
    """

    calls: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def empty() -> Workload:
    """Returns an empty workload, for a worker that only checks for packages."""
    return Workload()
