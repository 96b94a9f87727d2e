"""Checks the configuration of a command, wherever it comes from: the command line, a file or a program."""

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.registry import Registry
from mbv2kit.schema import check_value, is_mapping, is_section, is_text, keys_of
from mbv2kit.structures import TASKS


def keys_of_command(name: str) -> Any:
    """Returns what the keys of a command may be; None for a configuration that is none of the project's.

    Args:
        name: Name of the configuration, without suffix.
    """
    module = f"{__package__}.{name}"
    return import_module(module).Keys if find_spec(module) is not None else None


def check_config(
    name: str, values: Mapping[str, Any], parts: Iterable[Registry[Any]], origin: str = "", *, complete: bool = False
) -> None:
    """Checks every value of a configuration.

    Args:
        name: Name of the configuration, without suffix.
        values: The configuration as plain values.
        parts: The registries whose names are choices of its groups.
        origin: Beginning of the message, such as the name of a file.
        complete: Whether every key must be there.

    Raises:
        UserError: A value is not of its kind, or a key is missing that must be there.
    """
    keys = keys_of_command(name)
    if keys is None:
        return
    try:
        check_value("", values, keys, complete=complete)
        for registry in parts:
            part = values.get(registry.group)
            if part is not None:
                registry.check(part, registry.group)
            for head, each in (values.get(registry.several or "") or {}).items():
                registry.check(each, f"{registry.several}.{head}")
    except UserError as error:
        raise UserError(f"{origin}{error}") from None


def text_keys(name: str, parts: Iterable[Registry[Any]], heads: Iterable[str] = TASKS) -> set[str]:
    """Returns the dotted keys of a command whose values are text, so that a name of digits is no number.

    Args:
        name: Name of the configuration, without suffix.
        parts: The registries whose names are choices of its groups.
        heads: The names of the heads that have parts of their own.
    """
    kinds = list(_flat(keys_of_command(name), ""))
    for registry in parts:
        for part in registry.names():
            places = [registry.group, *(f"{registry.several}.{head}" for head in heads if registry.several)]
            kinds += [(f"{place}.{key}", kind) for key, kind in registry.kinds(part).items() for place in places]
    text = {key for key, kind in kinds if is_text(kind)}
    return text - {key for key, kind in kinds if not is_text(kind)}


def mapping_keys(name: str, parts: Iterable[Registry[Any]]) -> set[str]:
    """Returns the dotted keys of a command that hold a value for each of some names, such as ``loss_weights``.

    Args:
        name: Name of the configuration, without suffix.
        parts: The registries whose names are choices of its groups.
    """
    groups = {registry.several for registry in parts}
    return {key for key, kind in _flat(keys_of_command(name), "") if is_mapping(kind)} - groups


def _flat(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, kind in keys_of(section).items() if section is not None else ():
        if is_section(kind):
            yield from _flat(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind
