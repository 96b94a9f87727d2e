"""What the setup of a competitor gives to its worker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ready:
    """A competitor that is set up.

    Attributes:
        calls: What one call of each measure does.
        facts: What else is to be known of it, in JSON's types.
    """

    calls: Mapping[str, Callable[[], object]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def nothing() -> Ready:
    """Sets nothing up: a worker with it only says whether packages are installed."""
    return Ready({})
