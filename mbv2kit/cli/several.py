"""Parts that a model of several tasks has one of for each head: ``heads=[classifier,ssdlite] datasets.detection=coco``.

Each such set of parts becomes a choice of its group, so that Hydra knows the keys of every part.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mbv2kit.errors import UserError
from mbv2kit.registry import Registry
from mbv2kit.structures import TASKS

_PART = re.compile(r"(\w+)\.(\w+)$")
_BETWEEN = "+"


def register_sets(registries: Iterable[Registry[Any]]) -> None:
    """Makes every set of heads with at most one for each task a choice of its group, such as ``classifier+ssdlite``."""
    for registry in registries:
        if registry.group == "head":
            by_task = _by_task(registry)
            for names in product(*([None, *by_task[task]] for task in TASKS)):
                chosen: dict[str, str] = {task: name for task, name in zip(TASKS, names, strict=True) if name}
                if len(chosen) > 1:
                    _store(registry, chosen)


def choose_sets(overrides: Sequence[str], registries: Iterable[Registry[Any]]) -> list[str]:
    """Makes the sets that a command line names choices of their groups.

    Args:
        overrides: The command line, with ``heads=[HEAD,…]``, ``heads={TASK:HEAD,…}`` or ``heads.TASK=HEAD``, and the
            last two of these for other groups.
        registries: The registries of the parts.

    Returns:
        The command line with one choice in place of these.

    Raises:
        UserError: A name is unknown, or two heads are for one task.
    """
    several = {registry.several: registry for registry in registries if registry.several is not None}
    sets: dict[str, dict[str, str]] = {}
    rest: list[str] = []
    for line in overrides:
        key, value = _read(line)
        found = _PART.match(key)
        if key in several and isinstance(value, list | dict):
            sets[key] = _named(several[key], line, value)
        elif found and found[1] in several and isinstance(value, str):
            sets[found[1]] = {**sets.get(found[1], {}), found[2]: value}
        else:
            rest.append(line)
    return [choose_set(several[group], _checked(several[group], chosen)) for group, chosen in sets.items()] + rest


def choose_set(registry: Registry[Any], chosen: Mapping[str, str]) -> str:
    """Makes a set a choice of its group, and returns the override that chooses it.

    Args:
        registry: The registry of the parts.
        chosen: The name of the part of each task.
    """
    _store(registry, chosen)
    return f"{registry.several}='{set_name(registry, chosen)}'"


def set_name(registry: Registry[Any], chosen: Mapping[str, str]) -> str:
    """Returns the name of a set: ``classifier+ssdlite`` for heads, which name their tasks; others with their tasks."""
    return _BETWEEN.join(name if registry.group == "head" else f"{task}:{name}" for task, name in chosen.items())


def _read(line: str) -> tuple[str, Any]:
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException:
        return "", None  # reported with the other overrides
    if override.is_sweep_override() or override.is_delete() or override.is_add():
        return "", None
    return override.key_or_group, override.value()


def _named(registry: Registry[Any], line: str, value: list[Any] | dict[str, Any]) -> dict[str, str]:
    """Returns the name of the part for each task."""
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value.values()):
            raise UserError(f"'{line}': write {registry.several}={{TASK:NAME,TASK:NAME}}, and options as further keys.")
        return {str(task): name for task, name in value.items()}
    if registry.group != "head":
        raise UserError(f"'{line}': write {registry.several}={{TASK:NAME,TASK:NAME}}.")
    tasks = [registry.get_class(str(name)).task for name in value]
    for task in tasks:
        if tasks.count(task) > 1:
            raise UserError(f"'{line}' has {tasks.count(task)} heads for {task}; a model has one for each task.")
    return dict(zip(tasks, map(str, value), strict=True))


def _checked(registry: Registry[Any], chosen: Mapping[str, str]) -> dict[str, str]:
    """Returns the set in the order of the tasks."""
    for task, name in chosen.items():
        if task not in TASKS:
            raise UserError(f"{registry.several}.{task}: there is no such task; known are {', '.join(TASKS)}.")
        registry.get(name)
    return {task: chosen[task] for task in TASKS if task in chosen}


def _by_task(heads: Registry[Any]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {task: [] for task in TASKS}
    for name in heads.names():
        names[heads.get_class(name).task].append(name)
    return names


def _store(registry: Registry[Any], chosen: Mapping[str, str]) -> None:
    assert registry.several is not None
    node = {task: {**registry.keys(name), **_next_to_others(registry, name)} for task, name in chosen.items()}
    ConfigStore.instance().store(group=registry.several, name=set_name(registry, chosen), node=node)


def _next_to_others(registry: Registry[Any], name: str) -> Mapping[str, Any]:
    """Returns the options of a head whose default is another one next to other heads."""
    return dict(registry.get_class(name).next_to_others) if registry.group == "head" else {}
