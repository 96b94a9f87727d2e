"""The keys of a command as keyword arguments of a Python function."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, ListConfig, OmegaConf

from mbv2kit.cli.config import compose_config, conf_folder, register_parts
from mbv2kit.cli.plugins import load_plugins
from mbv2kit.errors import UserError
from mbv2kit.registry import Registry

_KEY = re.compile(r"[A-Za-z_]\w*([./][A-Za-z_]\w*)*")


def compose_in_program(config_name: str, overrides: Sequence[str], parts: Iterable[Registry[Any]]) -> DictConfig:
    """Composes the configuration of a command, and leaves Hydra as it was for a program that uses it itself.

    Args:
        config_name: Name of the configuration, without suffix.
        overrides: The keys, as :func:`to_overrides` writes them.
        parts: The registries whose names are choices.

    Raises:
        UserError: A key, a choice or a value is wrong, or something is missing.
    """
    parts = list(parts)
    load_plugins(overrides)
    with _kept_groups(["experiment", *(group for part in parts for group in (part.group, part.several) if group)]):
        register_parts(conf_folder(), parts)
        return compose_config(conf_folder(), config_name, overrides)


@contextmanager
def _kept_groups(groups: Iterable[str]) -> Iterator[None]:
    """Puts the choices of Hydra's groups back at the end; the program may have groups of the same names."""
    repo = ConfigStore.instance().repo
    before = {group: dict(repo[group]) if group in repo else None for group in groups}
    try:
        yield
    finally:
        for group, choices in before.items():
            if choices is None:
                repo.pop(group, None)
            else:
                repo[group] = choices


def to_overrides(keys: Mapping[str, Any]) -> list[str]:
    """Writes keyword arguments as overrides of the command line that mean the same.

    A string stays a string, whatever it looks like: ``"2012"`` is no number and ``"null"`` is not None. In a nested
    dictionary ``name`` makes the choice of a group, and the other keys are those of the choice.

    Args:
        keys: Values by key: None, booleans, numbers, strings, paths, modules, lists of them, or nested dictionaries
            in place of dotted keys.

    Raises:
        UserError: A key or a value is not of a kind that a command line can hold, or a key is given twice.

    Examples:
        >>> to_overrides({"dataset": {"name": "voc", "root": Path("cells")}, "trainer.max_epochs": 3})
        ["dataset='voc'", "dataset.root='cells'", 'trainer.max_epochs=3']
    """
    overrides: dict[str, str] = {}
    for key, value in _flatten(keys):
        if key in overrides:
            raise UserError(f"The key '{key}' is given twice; leave one out.")
        overrides[key] = f"{key}={_write(key, value)}"
    return list(overrides.values())


def _flatten(keys: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in keys.items():
        if not isinstance(name, str) or not _KEY.fullmatch(name) or name.partition(".")[0] == "hydra":
            raise UserError(f"There is no key '{prefix}{name}'.")
        key = prefix[:-1] if prefix and name == "name" else f"{prefix}{name}"
        if isinstance(value, DictConfig):
            value = OmegaConf.to_container(value)
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _write(key: str, value: Any) -> str:
    """Writes a value by the grammar of overrides."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, ModuleType):  # of plugins
        value = value.__name__
    if isinstance(value, str | os.PathLike):
        return QuotedString(os.fspath(value), Quote.single).with_quotes()
    if isinstance(value, list | tuple | ListConfig):
        return f"[{','.join(_write(key, item) for item in value)}]"
    raise UserError(
        f"{key} must be None, a boolean, a number, a string, a path, or a list of them, "
        f"got {type(value).__module__}.{type(value).__qualname__}."
    )
