"""The reference pages of the site, generated from the commands, conf/ and the registries.

What a key means is the comment next to it in conf/, or the argument in the docstring of the part, as in ``--help``.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mbv2kit.cli.comments import part_comments, yaml_comments
from mbv2kit.cli.help import format_value
from mbv2kit.commands import COMMANDS
from mbv2kit.registry import Registry
from mbv2kit.training.parts import training_parts

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
# Groups of conf/train.yaml that have files, and what to say above them.
FILE_GROUPS = {"train/task": "`task=NAME`", "trainer": "`trainer=NAME`", "tta": "`tta=NAME`"}
TITLES = {
    "dataset": "Data sets",
    "backbone": "Backbones",
    "head": "Heads",
    "augment": "Augmentations",
    "optimizer": "Optimizers",
    "scheduler": "Schedules",
    "evaluator": "Evaluators",
}
_ROLE = re.compile(r":\w+:`(?:~[\w.]*\.|mbv2kit[\w.]*\.)?([^`]*)`")
_SECTION = re.compile(r"^(?:Args|Attributes|Raises|Returns):$", re.MULTILINE)


def reference_pages() -> dict[str, str]:
    """Returns the Markdown of each page by its path in the site."""
    pages = {"reference/commands.md": commands_page(), "reference/experiments.md": experiments_page()}
    for registry in training_parts():
        pages[f"reference/{page_name(registry.group)}.md"] = parts_page(registry)
    return pages


def page_name(group: str) -> str:
    """Returns the name of a group's page, such as ``data_sets``."""
    return TITLES[group].lower().replace(" ", "_")


def commands_page() -> str:
    """Returns the page of all commands with their keys, and of the groups of ``train`` that have files."""
    sections = ["# Commands\n\nEach command is `mbv2kit NAME`; in a checkout, `python tools/NAME.py` does the same."]
    for command in COMMANDS:
        name = command.replace("-", "_")
        summary, _, examples = _docstring(ROOT / "mbv2kit" / "commands" / f"{name}.py").partition("\n")
        sections.append(f"## mbv2kit {command}\n\n{summary}\n\n```bash\n{examples.strip()}\n```")
        sections.append(_keys_of_file(CONF / f"{name}.yaml"))
        if command == "train":
            groups = ", ".join(f"[{group}]({page_name(group)}.md)" for group in map(_group, training_parts()))
            sections.append(f"Groups with pages of their own: {groups}. [Experiments](experiments.md) set many keys.")
            sections += [section for group in FILE_GROUPS for section in _file_group(group)]
    return "\n\n".join(filter(None, sections)) + "\n"


def experiments_page() -> str:
    """Returns the page of all files in conf/experiment/, each with the comment at its top."""
    sections = [
        "# Experiments\n\n`mbv2kit train experiment=NAME` trains by one of these files in `conf/experiment/`. "
        "`experiment=./my.yaml` takes a file of your own."
    ]
    folder = CONF / "experiment"
    for path in sorted(folder.rglob("*.yaml")):
        comment = [line.removeprefix("#").removeprefix(" ") for line in _header(path) if "@package" not in line]
        sections.append(f"## {path.relative_to(folder).with_suffix('')}\n\n```text\n{chr(10).join(comment)}\n```")
    return "\n\n".join(sections) + "\n"


def parts_page(registry: Registry[Any]) -> str:
    """Returns the page of a registry: every part with its description and keys."""
    title, group = TITLES[registry.group], registry.group
    sections = [f"# {title}\n\n`{group}=NAME` chooses one; its options are the keys `{group}.OPTION`."]
    for name in registry.names():
        builder = registry.get(name)
        comments = part_comments(registry, name)
        keys = {key: value for key, value in registry.keys(name).items() if key != registry.name_key}
        described = {f"{group}.{key}": (value, comments.get(key, "")) for key, value in keys.items()}
        sections += [f"## {name}\n\n{_description(builder)}", _table(described)]
    return "\n\n".join(filter(None, sections)) + "\n"


def _group(registry: Registry[Any]) -> str:
    return registry.group


def _file_group(group: str) -> Iterator[str]:
    yield f"### {FILE_GROUPS[group]}"
    for path in sorted((CONF / group).glob("*.yaml")):
        about = yaml_comments(path.read_text(encoding="utf-8")).get("", "")
        yield f"#### {group.rpartition('/')[2]}={path.stem}\n\n{about}"
        yield _keys_of_file(path, "" if "/" in group else f"{group}.")


def _keys_of_file(path: Path, prefix: str = "") -> str:
    text = path.read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    # A file of a group changes keys whose meaning stands in the command's own file.
    comments = yaml_comments((CONF / "train.yaml").read_text(encoding="utf-8")) | yaml_comments(text)
    for part in values.pop("defaults", []):
        if part == "plugins":
            shared = (CONF / f"{part}.yaml").read_text(encoding="utf-8")
            values, comments = values | yaml.safe_load(shared), comments | yaml_comments(shared)
    values.pop("hydra", None)
    # A name is the choice itself.
    keys = {
        f"{prefix}{key}": (value, comments.get(key, "")) for key, value in _leaves(values) if not key.endswith(".name")
    }
    return _table(keys)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _table(keys: Mapping[str, tuple[Any, str]]) -> str:
    """Returns a table of keys with their default and meaning; an empty text if there are none."""
    rows = [
        f"| `{key}` | {'required' if value == '???' else f'`{format_value(value)}`'} | {_cell(comment)} |"
        for key, (value, comment) in keys.items()
    ]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows]) if rows else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _description(builder: object) -> str:
    """Returns the docstring of a class, or of the one that a partial calls, up to its first section, as Markdown."""
    while isinstance(builder, partial):
        builder = builder.func
    text = _SECTION.split(inspect.getdoc(builder) or "")[0]
    return _ROLE.sub(r"`\1`", text).replace("``", "`").strip()


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _header(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        yield line
