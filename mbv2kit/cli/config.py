"""The configuration of a command, composed by Hydra, with one sentence for each mistake in an override.

Hydra composes the files in ``conf/``. Groups of registered parts, such as ``backbone``, need no files there: each name
in the registry is a choice, and the options of its constructor are the keys.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import mbv2kit
from mbv2kit.cli.keys import check_config, mapping_keys, text_keys
from mbv2kit.cli.mappings import gather_mappings
from mbv2kit.cli.overrides import Groups, check_group_choice, check_keys, check_override, flatten, parse, split_sweep
from mbv2kit.cli.quoting import quote_names
from mbv2kit.cli.recipe_sets import drop_unchosen
from mbv2kit.cli.recipes import describe_experiment, register_recipes
from mbv2kit.cli.resumed import config_of_run, with_parts_of_run
from mbv2kit.cli.several import choose_sets, keys_of_parts, names_of_heads, names_parts, register_sets
from mbv2kit.errors import UserError
from mbv2kit.registry import Registry

# By group; Hydra's store of their keys is as global as this.
_registered: dict[str, Registry[Any]] = {}


def conf_folder() -> Path:
    """Returns the folder of the configuration files: in the installed package, or next to it in a checkout."""
    package = Path(mbv2kit.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def register_parts(conf: Path, registries: Iterable[Registry[Any]]) -> None:
    """Makes every registered part a choice of its group, with its options as keys.

    Args:
        conf: Folder of the configuration files; a part that has a file there is left to that file.
        registries: The registries of the parts.
    """
    registries = list(registries)
    register_sets(registries)
    for registry in registries:
        _registered[registry.group] = registry
        for name in registry.names():
            if not (conf / registry.group / f"{name}.yaml").exists():
                ConfigStore.instance().store(group=registry.group, name=name, node=registry.keys(name))


def read_names(conf: Path, config_name: str, overrides: Sequence[str]) -> list[str]:
    """Returns a command line on which names made of digits are text, experiment files and parts of a run are choices.

    Args:
        conf: Folder of the configuration files.
        config_name: Name of the configuration, without suffix.
        overrides: ``key=value`` and ``group=choice``.

    Raises:
        UserError: There is no such experiment file, or the run to resume cannot be read.
    """
    heads = names_of_heads(overrides, _registered.values())
    names = text_keys(config_name, _registered.values(), heads)
    lines = quote_names(register_recipes(overrides, _registered.values()), names | {"experiment", *_registered})
    lines = gather_mappings(lines, mapping_keys(config_name, _registered.values()))
    if config_name == "train":
        lines = choose_sets(lines, _registered.values(), _sets_before(conf, config_name, lines))
    return with_parts_of_run(lines, _registered.values()) if "resume" in names else lines


def _sets_before(conf: Path, config_name: str, lines: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns the sets that a recipe, a task or a run chooses, where a command line changes single parts of them."""
    if not names_parts(lines, _registered.values()):
        return {}
    chosen: Any = config_of_run(lines)
    if chosen is None:
        try:
            with open_hydra(conf):
                choices = [line for line in lines if line.startswith(("task=", "experiment="))]
                chosen = OmegaConf.to_container(hydra.compose(config_name, choices))
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError):
            return {}  # reported with the whole command line
    several = [registry for registry in _registered.values() if chosen.get(registry.several or "")]
    return {
        str(registry.several): {
            head: part[registry.name_key]
            for head, part in chosen[registry.several].items()
            if isinstance(part, dict) and registry.name_key in part
        }
        for registry in several
    }


def compose_config(
    conf: Path, config_name: str, overrides: Sequence[str] = (), *, multirun: bool = False
) -> DictConfig:
    """Composes a configuration as the commands do, and checks every override.

    Args:
        conf: Folder of the configuration files.
        config_name: Name of the configuration, without suffix.
        overrides: ``key=value`` and ``group=choice``.
        multirun: Whether values may be sweeps; every value is checked, and the first job's configuration returned.

    Raises:
        UserError: A key, a choice or a value is wrong, or something is missing or cannot be worked out.
    """
    lines = read_names(conf, config_name, overrides)
    return without_hydra(compose(conf, config_name, lines, multirun=multirun, complete=True))


def compose(
    conf: Path,
    config_name: str,
    overrides: Sequence[str] = (),
    *,
    config_dir: str | None = None,
    multirun: bool = False,
    complete: bool = True,
) -> DictConfig:
    """Composes as :func:`compose_config` does, and leaves Hydra's own node in the configuration.

    Args:
        conf: Folder of the configuration files.
        config_name: Name of the configuration, without suffix.
        overrides: ``key=value`` and ``group=choice``, as :func:`read_names` returns it.
        config_dir: A user's folder of further choices, laid out as ``conf`` is.
        multirun: Whether values may be sweeps.
        complete: Whether every key must have a value; a configuration that is only shown need not.

    Raises:
        UserError: As of :func:`compose_config`, or ``config_dir`` is no folder.
    """
    try:
        with open_hydra(conf, config_dir):
            base = hydra.compose(config_name, return_hydra_config=True)
            groups = Groups(base)
            jobs = split_sweep(parse(overrides, groups), multirun=multirun)
            configs = [_compose_job(config_name, job, groups, base) for job in jobs]
            for config in configs if complete else ():
                if missing := sorted(OmegaConf.missing_keys(without_hydra(config))):
                    raise UserError(f"'{missing[0]}' has no value; give one with {missing[0]}=VALUE.")
                _check_default_task(config)
            return configs[0]
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise UserError(_sentence(error)) from error


@contextmanager
def open_hydra(conf: Path, config_dir: str | None = None) -> Iterator[ConfigLoader]:
    """Sets Hydra up for ``conf`` and a user's folder of further choices, and yields what reads the files."""
    OmegaConf.register_new_resolver("conf_dir", lambda: str(conf.resolve()), replace=True)
    # Hydra is at work already where a job that it runs, or a program that uses Hydra itself, composes another one.
    outer, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        _start_hydra(conf, config_dir)
        yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer


def _start_hydra(conf: Path, config_dir: str | None) -> None:
    """Starts Hydra as :func:`hydra.main` does; its public way to compose knows no second folder."""
    version.setbase("1.3")
    search_path = create_config_search_path(str(conf.resolve()))
    if config_dir is not None:
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise UserError(f"--config-dir {config_dir}: there is no such folder.")
        search_path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    Hydra.create_main_hydra2(task_name="mbv2kit", config_search_path=search_path)


def _compose_job(config_name: str, lines: list[str], groups: Groups, base: DictConfig) -> DictConfig:
    overrides = [item for item in parse(lines, groups) if not item.is_hydra_override()]
    choices = [item for item in overrides if item.key_or_group in groups.chosen and not isinstance(item.value(), dict)]
    for choice in choices:
        check_group_choice(choice, groups.choices(choice.key_or_group))
    chosen = [str(choice.input_line) for choice in choices]
    parts = hydra.compose(config_name, chosen, return_hydra_config=True) if chosen else base
    mappings = mapping_keys(config_name, _registered.values())
    drop_unchosen(parts, lines, _registered.values(), mappings)
    known = _known_keys(config_name, parts, mappings)
    for item in overrides:
        if item not in choices:
            check_override(item, known, mappings)

    config = hydra.compose(config_name, lines, return_hydra_config=True)
    drop_unchosen(config, lines, _registered.values(), mappings)
    values: Any = OmegaConf.to_container(without_hydra(config), resolve=True)
    check_config(config_name, _given(values), _registered.values())
    return config


def _given(values: Any) -> Any:
    """Returns the values of a configuration that are there and refer to no others."""
    if isinstance(values, dict):
        return {key: _given(value) for key, value in values.items() if not _is_open(value)}
    return values


def _is_open(value: Any) -> bool:
    return isinstance(value, str) and (value == "???" or "${" in value)


def _check_default_task(config: DictConfig) -> None:
    named = {line.partition("=")[0] for line in config.hydra.overrides.task}
    if "task" not in config.hydra.runtime.choices or named & {"task", "experiment"}:
        return
    from mbv2kit.data.sources.base import SOURCES

    dataset, task = config.dataset.name, config.task.name
    served = sorted(SOURCES.get_class(dataset).provides)
    if task not in served:
        names = " or ".join(f"task={other}" for other in served)
        raise UserError(
            f"dataset '{dataset}' does not serve {task}, the default task; name one that it serves: {names}."
        )


def without_hydra(config: DictConfig) -> DictConfig:
    """Returns a composed configuration without Hydra's own node, closed to new keys."""
    rest = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    OmegaConf.set_struct(rest, True)
    return rest


def _known_keys(config_name: str, config: DictConfig, mappings: Collection[str]) -> dict[str, Any]:
    """Returns every key of the chosen parts with its default, and checks that an experiment sets no others."""
    chosen = config.hydra.runtime.choices
    keys = {key: value for key, value in flatten(config).items() if key.partition(".")[0] != "hydra"}
    experiment = chosen.get("experiment")
    if experiment is None:
        return keys
    parts = [f"{group}={name}" for group, name in chosen.items() if name is not None and group != "experiment"]
    known = flatten(hydra.compose(config_name, parts))
    # An experiment may name parts for the heads without choosing a set of them, and values for some names.
    for registry in _registered.values():
        known |= keys_of_parts(config, registry)
    known |= {key: value for key, value in keys.items() if key.rpartition(".")[0] in mappings}
    origin = f"{describe_experiment(experiment)}: "
    check_keys(keys, known, origin)
    check_config(config_name, _given(OmegaConf.to_container(without_hydra(config))), _registered.values(), origin)
    return known


def _sentence(error: Exception) -> str:
    """Returns the message of Hydra or OmegaConf, which spreads over several lines, as one."""
    if isinstance(error, OmegaConfBaseException):
        reason = str(error.msg or error).strip().splitlines()[0]
        return f"{error.full_key}: {reason}." if error.full_key else f"{reason}."
    text = str(error).partition("search path:")[0].removesuffix("Config ").strip()
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = f"{text} {_sentence(error.__cause__)}"
    return " ".join(text.split()) or type(error).__name__
