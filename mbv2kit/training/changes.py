"""What a resumed run does otherwise than before, as its log tells it."""

from collections.abc import Mapping
from typing import Any

from mbv2kit.cli.overrides import flatten
from mbv2kit.schema import shown

# How a run is shown and how fast it is; its results are the same, bit for bit.
_WITHOUT_EFFECT = frozenset({"loader.workers", "trainer.progress_bar"})


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the dotted keys whose values differ, with those of ``before``.

    Args:
        before: The configuration of the run so far. What it lacks is no change: an earlier version had no such key.
        now: The configuration from now on.
    """
    old, new = flatten(before), flatten(now)
    return {
        key: old[key]
        for key, value in new.items()
        # The keys of a mapping are told one by one, unless there was none.
        if key in old and old[key] != value and not (isinstance(value, Mapping) and isinstance(old[key], Mapping))
    }


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a sentence on the changes that decide what follows, and one on those that do not."""
    old, new = changed_keys(before, now), flatten(now)
    told = {key: f"{key}={shown(new[key])} (was {shown(old[key])})" for key in old}
    inert = [told.pop(key) for key in sorted(_WITHOUT_EFFECT & told.keys())]
    outcomes = [
        (list(told.values()), "what follows may differ from a run without the change"),
        (inert, "the results stay the same"),
    ]
    return [f"the run goes on with {', '.join(changes)}; {outcome}" for changes, outcome in outcomes if changes]
