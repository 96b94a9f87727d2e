"""The command line of a resumed run knows the keys of the run's own parts, not those of the default ones."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mbv2kit.cli.several import choose_set
from mbv2kit.registry import Registry
from mbv2kit.structures import MULTITASK, TASKS


def with_parts_of_run(overrides: Sequence[str], parts: Iterable[Registry[Any]]) -> list[str]:
    """Adds the choices of the run that ``resume=`` names, for the groups whose keys the command line sets.

    Args:
        overrides: The command line.
        parts: The registries whose names are choices of the groups.

    Returns:
        The command line, which begins with such choices as ``optimizer=sgd``; unchanged if it resumes no run.

    Raises:
        UserError: The configuration of the run cannot be read.
    """
    given = dict(map(_key_and_value, overrides))
    values = config_of_run(overrides)
    if values is None:
        return list(overrides)
    parts = list(parts)
    several = {registry.several: registry for registry in parts if registry.several is not None}
    sets = {group for key in given if (group := key.partition(".")[0]) in several and group not in given}
    known = {registry.group: (registry.name_key, registry.names()) for registry in parts}
    groups = {group for key in given if (group := key.partition(".")[0]) in known and group not in given}
    if not groups and not sets:
        return list(overrides)
    chosen = {
        group: {head: str(part[several[group].name_key]) for head, part in values[group].items()}
        for group in sets
        if isinstance(values.get(group), Mapping)
    }
    choices = {group: _choice(values, group, *known[group]) for group in groups}
    if "task" not in given:
        # A data set that is chosen must serve the task.
        choices["task"] = _choice(values, "task", "name", (*TASKS, MULTITASK))
    return [
        *(f"{group}={choose_set(several[group], names)}" for group, names in chosen.items()),
        *(f"{group}={name}" for group, name in choices.items() if name is not None),
        *overrides,
    ]


def config_of_run(overrides: Sequence[str]) -> dict[str, Any] | None:
    """Returns the configuration of the run that ``resume=`` names; None if it names none.

    Raises:
        UserError: The configuration cannot be read.
    """
    folder = dict(map(_key_and_value, overrides)).get("resume")
    if not isinstance(folder, str):
        return None
    # It imports more than a command needs that only shows its help.
    from mbv2kit.models.run_folder import RunFolder

    run = RunFolder(Path(folder))
    return run.read_config() if run.config.is_file() else None


def _key_and_value(line: str) -> tuple[str, Any]:
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException:
        return "", None  # reported with the other overrides
    return override.key_or_group, None if override.is_sweep_override() else override.value()


def _choice(values: Mapping[str, Any], group: str, key: str, names: Sequence[str]) -> str | None:
    """Returns the part that a run chose; None if there is no such part now, which is reported with the whole run."""
    part = values.get(group)
    name = part.get(key) if isinstance(part, Mapping) else None
    return name if name in names else None
