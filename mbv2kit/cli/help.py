"""The text of ``--help``: the command's description, the groups with their choices, and every key with its meaning."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from textwrap import wrap
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mbv2kit.cli.comments import part_comments, yaml_comments
from mbv2kit.cli.config import open_hydra, without_hydra
from mbv2kit.cli.overrides import Groups
from mbv2kit.registry import Registry

# Lines are as long as the terminal is wide, within these limits.
_NARROWEST, _WIDEST = 72, 100
# Where the meaning of a key begins, behind the key and its value.
_COLUMN = 40
_FLAGS = """\
FLAGS
  --cfg job       prints the whole configuration and runs nothing
  -m, --multirun  runs one job for every combination of values given as key=a,b"""


def help_text(
    conf: Path,
    config_name: str,
    config: DictConfig,
    description: str,
    registries: Sequence[Registry[Any]],
    config_dir: str | None = None,
    *,
    width: int = _WIDEST,
) -> str:
    """Writes the help of a command for the parts that its command line chooses.

    Args:
        conf: Folder of the configuration files.
        config_name: Name of the configuration, without suffix.
        config: The composed configuration, Hydra's own node included.
        description: Text at the top.
        registries: Registries of the choices that have no file.
        config_dir: A user's folder of further choices.
        width: Length of the lines, in characters.
    """
    with open_hydra(conf, config_dir) as loader:
        groups = Groups(config)
        choices = list(_choices(groups, width))
        comments = _comments(loader, config_name, config, registries)
    values: Any = OmegaConf.to_container(without_hydra(config))
    keys = "\n\n".join("\n".join(block) for block in _blocks(values, groups.chosen, comments, width))
    parts = [cleandoc(description), *choices, f"KEYS: key=value sets one of them\n\n{keys}", _FLAGS]
    return "\n\n".join(part for part in parts if part)


def help_width() -> int:
    """Returns how long the lines of a help text on stdout may be, in characters."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
    return min(max(columns, _NARROWEST), _WIDEST)


def _choices(groups: Groups, width: int) -> Iterator[str]:
    title = wrap("GROUPS: group=choice takes a whole set of keys (* marks what this command line takes)", width)
    lines: list[str] = []
    for group, chosen in sorted(groups.chosen.items()):
        names = ", ".join(f"*{name}" if name == chosen else name for name in groups.choices(group))
        lines += wrap(names, width, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)
    if lines:
        yield "\n".join(title + lines)


def _comments(
    loader: ConfigLoader, config_name: str, config: DictConfig, registries: Sequence[Registry[Any]]
) -> dict[str, str]:
    """Returns the meaning of every dotted key, from the first file or constructor that says it."""
    sources = config.hydra.runtime.config_sources
    folders = [Path(source["path"]) for source in sources if source["schema"] == "file"]
    parts = {registry.group: registry for registry in registries}
    comments: dict[str, str] = {}
    defaults = loader.compute_defaults_list(config_name, list(config.hydra.overrides.task), RunMode.RUN).defaults
    for default in defaults:
        group, _, name = default.config_path.rpartition("/")
        # Comments in an experiment give the reason for a value.
        if group.partition("/")[0] in ("hydra", "experiment"):
            continue
        file = next((path for folder in folders if (path := folder / f"{default.config_path}.yaml").is_file()), None)
        if file is not None:
            found = yaml_comments(file.read_text(encoding="utf-8"))
        elif group in parts:
            found = part_comments(parts[group], name)
        else:
            continue
        about = {group: found.pop("", "")}
        own = {f"{default.package}.{key}".removeprefix("."): text for key, text in found.items()}
        comments = about | own | comments
    return comments


def _blocks(
    values: Mapping[str, Any], chosen: Mapping[str, str | None], comments: Mapping[str, str], width: int
) -> Iterator[list[str]]:
    """Yields the lines of each branch of the configuration, and of the keys between two branches."""
    single: list[str] = []
    for key, value in values.items():
        if not isinstance(value, dict):
            single += _line(key, value, comments, width)
            continue
        if single:
            yield single
        single = []
        title = f"{key}={chosen[key]}" if chosen.get(key) else key
        about = f"{title}: {comments[key]}" if comments.get(key) else title
        lines = wrap(about, width, subsequent_indent="  ", break_on_hyphens=False)
        for name, leaf in _leaves(value, f"{key}."):
            if name not in (f"{key}.name", f"{key}.preset"):  # the title says it
                lines += _line(name, leaf, comments, width)
        yield lines
    if single:
        yield single


def _leaves(branch: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in branch.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _line(key: str, value: Any, comments: Mapping[str, str], width: int) -> list[str]:
    left, comment = f"  {key}={format_value(value)}", comments.get(key, "")
    if ". " not in comment:
        comment = comment.removesuffix(".")
    if value == "???":
        comment = f"required: {comment}" if comment else "required"
    text = wrap(comment, width - _COLUMN, break_on_hyphens=False, break_long_words=False)
    if text and len(left) < _COLUMN - 1:
        left = f"{left:<{_COLUMN}}{text.pop(0)}"
    return [left, *(" " * _COLUMN + line for line in text)]


def format_value(value: Any) -> str:
    """Returns a value as it is written on the command line."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{format_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(format_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return "VALUE" if value == "???" else str(value)
