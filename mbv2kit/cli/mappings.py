"""A key with a value for each of some names: ``loss_weights.detection=0.5`` is ``loss_weights={detection:0.5}``."""

from collections.abc import Collection, Sequence
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


def gather_mappings(lines: Sequence[str], keys: Collection[str]) -> list[str]:
    """Returns a command line on which such a key is given once, with all of its names.

    It is forced, because Hydra adds no name to what an experiment sets.

    Args:
        lines: The command line; in a sweep a name may have several values, and the key has every combination.
        keys: The dotted keys that hold mappings.
    """
    gathered: dict[str, list[list[str]]] = {}
    rest: list[str] = []
    for line in lines:
        name, equals, value = line.partition("=")
        key, _, entry = name.rpartition(".")
        if name in keys and value.startswith("{") and len(_values(line, value)) == 1:
            gathered.setdefault(name, []).append([value.strip()[1:-1]])
        elif equals and key in keys:
            gathered.setdefault(key, []).append([f"{entry}:{each}" for each in _values(line, value)])
        else:
            rest.append(line)
    for key, entries in gathered.items():
        choices = ["{" + ",".join(filter(None, chosen)) + "}" for chosen in product(*entries)]
        rest.append(f"++{key}={','.join(choices)}")
    return rest


def _values(line: str, value: str) -> list[str]:
    """Returns the values of a sweep, or the one of another line."""
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException:
        return [value]  # reported with the other overrides
    return list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [value]
