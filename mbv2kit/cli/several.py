"""Parts that a model has one of for each head: ``heads=[classifier,ssdlite] datasets.detection=coco``.

A head is called as its task, or by a name of its own: ``heads.color=classifier datasets.color=folder``. Each such set
of parts becomes a choice of its group, so that Hydra knows the keys of every part.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mbv2kit.errors import UserError
from mbv2kit.registry import Registry
from mbv2kit.schema import check_value
from mbv2kit.schema.rules import HeadName
from mbv2kit.structures import TASKS

_PART = re.compile(r"(\w+)\.(\w+)$")
_NAMED = re.compile(r"(\w+)\.(\w+)[.=]")
_BETWEEN = "+"
_NONE = "none"


def register_sets(registries: Iterable[Registry[Any]]) -> None:
    """Makes every set of heads with at most one for each task a choice of its group, such as ``classifier+ssdlite``."""
    for registry in registries:
        if registry.group == "head":
            by_task = _by_task(registry)
            for names in product(*([None, *by_task[task]] for task in TASKS)):
                chosen: dict[str, str] = {task: name for task, name in zip(TASKS, names, strict=True) if name}
                if len(chosen) > 1:
                    _store(registry, chosen)


def choose_sets(
    overrides: Sequence[str],
    registries: Iterable[Registry[Any]],
    before: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> list[str]:
    """Makes the sets that a command line names choices of their groups.

    Args:
        overrides: The command line, with ``heads=[HEAD,…]`` or ``heads={NAME:HEAD,…}`` for a set, ``heads.NAME=HEAD``
            to add or exchange one part of it, and the last two of these for other groups; or several values of them,
            for a sweep.
        registries: The registries of the parts.
        before: The sets that are chosen without the command line, by their groups.

    Returns:
        The command line with one choice in place of these.

    Raises:
        UserError: A part is unknown, or two heads of one task have no names of their own.
    """
    several = {registry.several: registry for registry in registries if registry.several is not None}
    sets: dict[str, list[dict[str, str]]] = {}
    rest: list[str] = []
    for line in overrides:
        key, values = read_line(line)
        found = _PART.match(key)
        if key in several and all(isinstance(value, list | dict) for value in values):
            sets[key] = [read_set(several[key], line, value) for value in values]
        elif found and found[1] in several and all(isinstance(value, str) for value in values):
            so_far = sets.get(found[1], [dict(before.get(found[1], {}))])
            sets[found[1]] = [{**chosen, found[2]: name} for chosen in so_far for name in values]
        elif key in several and values == [None] and several[key].group != "head":
            # It is the default, unless another set was chosen; heads are never left out.
            sets.pop(key, None)
            if key in before:
                sets[key] = [{}]
        else:
            rest.append(line)
    chosen_sets = {
        group: [choose_set(several[group], check_set(several[group], chosen)) for chosen in choices]
        for group, choices in sets.items()
    }
    return [f"{group}={','.join(names)}" for group, names in chosen_sets.items()] + rest


def keys_of_parts(config: DictConfig, registry: Registry[Any]) -> dict[str, Any]:
    """Returns the keys that the parts of a set have, ``heads.detection.anchors``, with their values in a config.

    Args:
        config: A composed configuration.
        registry: The registry of the parts.
    """
    keys: dict[str, Any] = {}
    for head, part in (config.get(registry.several or "") or {}).items() if registry.several is not None else ():
        name = part.get(registry.name_key) if isinstance(part, Mapping | DictConfig) else None
        names = registry.keys(name) if name in registry.names() else part
        place = f"{registry.several}.{head}"
        keys |= {place: part, **{f"{place}.{key}": OmegaConf.select(config, f"{place}.{key}") for key in names}}
    return keys


def choose_set(registry: Registry[Any], chosen: Mapping[str, str]) -> str:
    """Makes a set a choice of its group, and returns the value that chooses it.

    Args:
        registry: The registry of the parts.
        chosen: The part of each head.
    """
    _store(registry, chosen)
    return f"'{set_name(registry, chosen)}'"


def set_name(registry: Registry[Any], chosen: Mapping[str, str]) -> str:
    """Returns the name of a set: ``classifier+ssdlite``, or ``color:classifier`` for a name of its own."""
    told = {} if registry.group != "head" else {head: registry.get_class(name).task for head, name in chosen.items()}
    named = (name if told.get(head) == head else f"{head}:{name}" for head, name in _sorted(chosen).items())
    return _BETWEEN.join(named) or _NONE


def parts_of(name: str) -> set[str]:
    """Returns the parts in the name of a set, as :func:`set_name` returns it."""
    return set(name.split(_BETWEEN))


def names_parts(overrides: Iterable[str], registries: Iterable[Registry[Any]]) -> bool:
    """Tells whether a command line adds or exchanges single parts of a set, or leaves a set out."""
    several = {registry.several for registry in registries} - {None}
    for key, values in map(read_line, overrides):
        part = _PART.match(key)
        if (part and part[1] in several) or (key in several and values == [None]):
            return True
    return False


def names_of_heads(overrides: Iterable[str], registries: Iterable[Registry[Any]]) -> set[str]:
    """Returns the heads that a command line gives names of their own or options, as in ``heads.color.dropout=0.1``."""
    several = {registry.several for registry in registries} - {None}
    found = (_NAMED.match(line) for line in overrides)
    return {each[2] for each in found if each and each[1] in several} | set(TASKS)


def _sorted(chosen: Mapping[str, str]) -> dict[str, str]:
    """Returns a set in the order of the tasks; names of their own follow as they were given."""
    names = [*(task for task in TASKS if task in chosen), *(name for name in chosen if name not in TASKS)]
    return {name: chosen[name] for name in names}


def read_line(line: str) -> tuple[str, list[Any]]:
    """Returns the key of an override and its values, of which a sweep has several; no key if it chooses nothing."""
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException:
        return "", []  # reported with the other overrides
    if override.is_delete() or override.is_add() or (override.is_sweep_override() and not override.is_discrete_sweep()):
        return "", []
    if not override.is_sweep_override():
        return override.key_or_group, [override.value()]
    texts = override.sweep_string_iterator()
    return override.key_or_group, [OverridesParser.create().parse_override(f"key={text}").value() for text in texts]


def read_set(registry: Registry[Any], line: str, value: list[Any] | dict[str, Any]) -> dict[str, str]:
    """Returns the part of each head of a set.

    Args:
        registry: The registry of the parts.
        line: The line that names them, for messages.
        value: Names of heads, or a part for each head.

    Raises:
        UserError: It names none, or two heads of one task without names of their own.
    """
    if not value:
        raise UserError(f"'{line}' names none; name some, or leave it out.")
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value.values()):
            raise UserError(f"'{line}': write {registry.several}={{TASK:NAME,TASK:NAME}}, and options as further keys.")
        return {str(head): name for head, name in value.items()}
    if registry.group != "head":
        raise UserError(f"'{line}': write {registry.several}={{TASK:NAME,TASK:NAME}}.")
    tasks = [registry.get_class(str(name)).task for name in value]
    for task in tasks:
        if tasks.count(task) > 1:
            raise UserError(
                f"'{line}' has {tasks.count(task)} heads for {task}; give them names of their own, as in "
                f"heads={{{task}:{value[0]},second:{value[0]}}}."
            )
    return dict(zip(tasks, map(str, value), strict=True))


def check_set(registry: Registry[Any], chosen: Mapping[str, str]) -> dict[str, str]:
    """Returns a set in its order.

    Raises:
        UserError: A name or a part cannot be.
    """
    for head, name in chosen.items():
        check_value(f"the name of {registry.several}.{head}", head, HeadName)
        registry.get(name)
    return _sorted(chosen)


def _by_task(heads: Registry[Any]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {task: [] for task in TASKS}
    for name in heads.names():
        names[heads.get_class(name).task].append(name)
    return names


def _store(registry: Registry[Any], chosen: Mapping[str, str]) -> None:
    assert registry.several is not None
    node = {head: {**registry.keys(name), **_next_to_others(registry, name)} for head, name in chosen.items()}
    ConfigStore.instance().store(group=registry.several, name=set_name(registry, chosen), node=node)


def _next_to_others(registry: Registry[Any], name: str) -> Mapping[str, Any]:
    """Returns the options of a head whose default is another one next to other heads."""
    return dict(registry.get_class(name).next_to_others) if registry.group == "head" else {}
