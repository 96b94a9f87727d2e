"""Checks of ``group=choice`` and ``key=value`` on the command line; every mistake is one sentence."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from mbv2kit.errors import UserError, nearest


class Groups:
    """The groups of parts that a configuration consists of.

    Args:
        config: The composed configuration, Hydra's own node included.

    Attributes:
        chosen: The choice of ``config`` for each group; None for a group that it leaves out.
    """

    def __init__(self, config: DictConfig) -> None:
        search_path = ConfigSearchPathImpl()
        for source in config.hydra.runtime.config_sources:
            search_path.append(source.provider, f"{source.schema}://{source.path}")
        # Hydra's reader would read the main file again for every list of choices.
        self._sources = ConfigRepository(search_path).get_sources()
        choices = config.hydra.runtime.choices.items()
        self.chosen: dict[str, str | None] = {key: value for key, value in choices if not key.startswith("hydra/")}

    def choices(self, group: str, folder: str = "") -> list[str]:
        """Lists the choices of a group; those in subfolders are called ``folder/name``."""
        path = f"{group}/{folder}".rstrip("/")
        sources = [source for source in self._sources if source.is_group(path)]
        files, folders = (
            sorted({name for source in sources for name in source.list(path, kind)})
            for kind in (ObjectType.CONFIG, ObjectType.GROUP)
        )
        below = [choice for name in folders for choice in self.choices(group, f"{folder}{name}/")]
        return [folder + name for name in files] + below


def parse(lines: Sequence[str], groups: Groups) -> list[Override]:
    """Reads overrides by Hydra's grammar.

    Raises:
        UserError: One is not of the form ``key=value``.
    """
    for line in lines:
        if "=" not in line and not line.startswith("~"):
            hits = [f"'{group}={line}'" for group in groups.chosen if line in groups.choices(group)]
            hint = f" Did you mean {' or '.join(hits)}?" if hits else ""
            raise UserError(f"'{line}' is not of the form key=value.{hint}")
    try:
        return OverridesParser.create().parse_overrides(list(lines))
    except OverrideParseException as error:
        raise UserError(
            f"'{error.override}' cannot be read; put a value with special characters between two kinds of quotes, "
            "as in 'key=\"a=b\"'."
        ) from None


def split_sweep(overrides: Sequence[Override], *, multirun: bool) -> Iterator[list[str]]:
    """Yields jobs that together use every value of a sweep: the first value of each key, then the others one by one.

    Raises:
        UserError: A key has several values, but ``multirun`` is off.
    """
    sweeps = [item for item in overrides if item.is_sweep_override()]
    if sweeps and not multirun:
        line, key = sweeps[0].input_line, sweeps[0].get_key_element()
        a_list = f", or write {key}=[{sweeps[0].get_value_string()}] for a list"
        hint = a_list if sweeps[0].value_type == ValueType.SIMPLE_CHOICE_SWEEP else ""
        raise UserError(f"'{line}' holds several values: add -m to run a job for each{hint}.")
    values = {item.get_key_element(): list(item.sweep_string_iterator()) for item in sweeps if item.is_discrete_sweep()}
    fixed = [str(item.input_line) for item in overrides if item not in sweeps]
    first = {key: options[0] for key, options in values.items()}
    yield fixed + [f"{key}={value}" for key, value in first.items()]
    for changed, options in values.items():
        for option in options[1:]:
            yield fixed + [f"{key}={value}" for key, value in (first | {changed: option}).items()]


def check_group_choice(choice: Override, choices: Sequence[str]) -> None:
    """Raises a UserError if ``group=choice`` names no choice of the group."""
    group, value = choice.key_or_group, choice.value()
    if choice.is_add() or choice.is_force_add() or choice.is_delete():
        raise UserError(f"'{choice.input_line}': write {group}=CHOICE.{nearest(str(value), choices)}")
    for name in value if isinstance(value, list) else [value]:
        if name not in choices:
            word = "null" if name is None else str(name)
            raise UserError(f"There is no {group} '{word}'.{nearest(word, choices)}")


def check_override(override: Override, known: Mapping[str, Any], mappings: Collection[str] = ()) -> None:
    """Raises a UserError if ``key=value`` names no key of ``known`` (see :func:`flatten`).

    Args:
        override: ``key=value``.
        known: Every key with its default.
        mappings: Keys whose values may have any names below them.
    """
    key, value = override.key_or_group, override.value()
    if override.is_delete():
        check_keys({key: None}, known)
        raise UserError(f"'{override.input_line}': a key cannot be taken away; set it to a value.")
    below = flatten(value, f"{key}.") if isinstance(value, dict) and key not in mappings else {}
    check_keys(below | {key: value}, known)
    if (override.is_add() or override.is_force_add()) and key not in mappings:
        raise UserError(f"'{override.input_line}': the key '{key}' is there already; leave out the '+'.")


def check_keys(values: Mapping[str, Any], known: Mapping[str, Any], origin: str = "") -> None:
    """Checks that a configuration has the keys to set.

    Args:
        values: Values to set, by dotted keys.
        known: Existing keys with their defaults.
        origin: Beginning of the message.

    Raises:
        UserError: A key is unknown.
    """
    for key in values:
        if key not in known:
            raise UserError(f"{origin}{_unknown(key, known)}")


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    parent, _, name = key.rpartition(".")
    while parent and parent not in known:
        parent, _, step = parent.rpartition(".")
        name = f"{step}.{name}"
    if parent and known[parent] is None:
        owner = key.rpartition(".")[0]
        return f"{parent} is null and has no key '{name}'; give it a value first, as in {owner}=NAME."
    from mbv2kit.cli.suggestions import suggest

    return f"There is no key '{key}'.{suggest(key, known, parent)}"


def flatten(branch: DictConfig | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Maps the dotted name of every key and every branch to its unresolved value."""
    tree: Any = OmegaConf.to_container(branch) if isinstance(branch, DictConfig) else branch
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
    return flat
