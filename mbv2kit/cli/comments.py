"""What each key means: the comments on the keys of a YAML file, and the arguments in a docstring.

Both readers map dotted keys to one line of text. The empty key stands for the file, class or function as a whole.
"""

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import yaml

from mbv2kit.registry import Registry

_PACKAGE = "@package"
# A line of an Args section: names, a type that may be given, and the beginning of the text.
_ARGUMENT = re.compile(r"\*{0,2}(\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: *(.*)")
_MARKUP = (
    (re.compile(r":\w+:`~?([^`]*)`"), r"\1"),
    (re.compile(r"``(.+?)``"), r"\1"),
    (re.compile(r"(?<!\w)\*(\w[^*]*)\*"), r"\1"),
)


def yaml_comments(text: str) -> dict[str, str]:
    """Reads the comments of a YAML file.

    The comment of a key is on the lines right above it or behind its value. The lines at the top of the file are about
    the file.
    """
    lines = text.splitlines()
    header = 0
    while header < len(lines) and lines[header].startswith("#"):
        header += 1
    comments = {"": _join(line for line in _bare(lines[:header]) if not line.startswith(_PACKAGE))}
    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        for key, first, last in _keys(root):
            above = first.line
            while above > header and lines[above - 1].lstrip().startswith("#"):
                above -= 1
            behind = lines[last.line][last.column :].lstrip(" :")
            comments[key] = _join([*_bare(lines[above : first.line]), *_bare([behind] if behind[:1] == "#" else [])])
    return {key: comment for key, comment in comments.items() if comment}


def argument_comments(builder: object) -> dict[str, str]:
    """Reads the Args and Attributes sections of a class, a function or a partial of one.

    A class inherits the arguments of its bases. An argument whose default is a dataclass brings the fields of that.
    """
    while isinstance(builder, partial):
        builder = builder.func
    comments: dict[str, str] = {}
    for documented in inspect.getmro(builder) if isinstance(builder, type) else (builder,):
        if documented is not object:
            comments = _docstring_comments(documented.__doc__ or "") | comments
    for parameter in inspect.signature(builder).parameters.values() if callable(builder) else ():
        if is_dataclass(parameter.default):
            comments = _docstring_comments(type(parameter.default).__doc__ or "") | comments
    return comments


def part_comments(registry: Registry[Any], name: str) -> dict[str, str]:
    """Reads what the keys of a registered part mean; those that every part has are fields of ``registry.shared``."""
    shared = {} if registry.shared is None else argument_comments(type(registry.shared))
    return shared | argument_comments(registry.get(name))


def _keys(node: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, yaml.Mark, yaml.Mark]]:
    """Yields each dotted key with the place where it begins, and the place that its comment follows."""
    for key, value in node.value:
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        yield f"{prefix}{key.value}", key.start_mark, key.end_mark if is_block else value.end_mark
        if isinstance(value, yaml.MappingNode) and is_block:
            yield from _keys(value, f"{prefix}{key.value}.")


def _docstring_comments(docstring: str) -> dict[str, str]:
    lines = inspect.cleandoc(docstring).splitlines()
    comments: dict[str, list[str]] = {"": list(lines[:1])}
    current: list[str] = []
    inside = False
    for line in lines:
        if line and not line.startswith(" "):
            inside = line in ("Args:", "Attributes:")
        elif inside and (found := _ARGUMENT.fullmatch(line.removeprefix("    "))):
            current = [found[2]]
            comments |= dict.fromkeys(found[1].replace("*", "").split(", "), current)
        elif inside:
            current.append(line)
    return {key: comment for key, parts in comments.items() if (comment := _join(parts))}


def _bare(lines: list[str]) -> list[str]:
    return [line.strip().removeprefix("#").strip() for line in lines]


def _join(lines: Iterable[str]) -> str:
    text = " ".join(" ".join(lines).split())
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text
