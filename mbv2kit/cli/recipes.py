"""A user's own experiment file: ``experiment=./my.yaml`` is a choice of the group as those in ``conf/`` are."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mbv2kit.cli.recipe_sets import choose_in_recipe
from mbv2kit.errors import UserError, one_line
from mbv2kit.registry import Registry

_GROUP = "experiment"
_SUFFIX = ".yaml"


def register_recipes(overrides: Sequence[str], registries: Collection[Registry[Any]] = ()) -> list[str]:
    """Makes every file that ``experiment=`` names a choice of the group.

    Args:
        overrides: The command line; a value that ends in ``.yaml`` is a path, relative to the current folder.
        registries: The registries of the parts, of which a file may name sets; none while plugins are looked for.

    Returns:
        The command line with the choices in place of the files.

    Raises:
        UserError: There is no such file, or it holds no configuration.
    """
    return [
        _register(line, registries) if line.startswith(f"{_GROUP}=") and _SUFFIX in line else line for line in overrides
    ]


def describe_experiment(choice: str) -> str:
    """Returns the path of an experiment's file, as a user would look for it."""
    path = f"{_GROUP}/{choice}{_SUFFIX}"
    if ConfigStore.instance().get_type(path) is ObjectType.CONFIG:
        return str(ConfigStore.instance().load(path).provider)
    return f"conf/{path}"


def read_experiment(choice: str, config_dir: str | None) -> DictConfig:
    """Returns what a user's own experiment sets; nothing for one of the project.

    Args:
        choice: As :func:`register_recipes` returns it.
        config_dir: A user's folder of further choices.
    """
    path = f"{_GROUP}/{choice}{_SUFFIX}"
    if ConfigStore.instance().get_type(path) is ObjectType.CONFIG:
        return ConfigStore.instance().load(path).node
    file = None if config_dir is None else Path(config_dir, path)
    return _read(file, str(file)) if file is not None and file.is_file() else OmegaConf.create()


def _register(line: str, registries: Collection[Registry[Any]]) -> str:
    try:
        override = OverridesParser.create().parse_override(line)
    except HydraException:
        return line  # reported with the other overrides
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    names = [
        _store(value, registries) if isinstance(value, str) and value.endswith(_SUFFIX) else str(value)
        for value in values
    ]
    return f"{_GROUP}={','.join(names)}"


def _store(file: str, registries: Collection[Registry[Any]]) -> str:
    path = Path(file).expanduser()
    try:
        content = choose_in_recipe(_read(path, file), registries)
    except UserError as error:
        raise UserError(error if str(error).startswith(_GROUP) else f"{file}: {error}") from None
    # No file of the project can have the same name.
    folder, _, name = os.path.abspath(path).removesuffix(_SUFFIX).strip(os.sep).rpartition(os.sep)
    ConfigStore.instance().store(name=name, group=f"{_GROUP}/{folder}", node=content, package="_global_", provider=file)
    return f"'{folder}/{name}'"


def _read(path: Path, file: str) -> DictConfig:
    try:
        content = OmegaConf.load(path)
    except FileNotFoundError:
        raise UserError(f"{_GROUP}={file}: there is no such file.") from None
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{_GROUP}={file} cannot be read: {one_line(error)}.") from None
    if not isinstance(content, DictConfig):
        raise UserError(f"{_GROUP}={file} holds no keys; write some, such as those of conf/experiment.")
    return content
