"""A key with a value for each of some names: ``loss_weights.detection=0.5`` is ``loss_weights={detection:0.5}``."""

from collections.abc import Collection, Sequence


def gather_mappings(lines: Sequence[str], keys: Collection[str]) -> list[str]:
    """Returns a command line on which such a key is given once, with all of its names.

    Args:
        lines: The command line.
        keys: The dotted keys that hold mappings.
    """
    gathered: dict[str, list[str]] = {}
    rest: list[str] = []
    for line in lines:
        name, equals, value = line.partition("=")
        key, _, entry = name.rpartition(".")
        if equals and key in keys:
            gathered.setdefault(key, []).append(f"{entry}:{value}")
        else:
            rest.append(line)
    return rest + [f"{key}={{{','.join(entries)}}}" for key, entries in gathered.items()]
