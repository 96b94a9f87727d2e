"""Annotations as kinds of values: whether a value is of a kind, and what a kind is called in a message."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from math import isfinite
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from mbv2kit.schema.rules import Rule

_LARGEST = 1e18  # of numbers without a rule: they stay numbers in every format
_LONGEST_TEXT, _MOST_VALUES, _DEEPEST = 65_536, 100_000, 20
_LISTS: tuple[object, ...] = (list, tuple, Sequence)
_PLAIN: Mapping[object, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"
}  # fmt: skip


def is_section(kind: Any) -> bool:
    """Whether values of a kind are sets of keys, each of a kind of its own: a TypedDict or a dataclass."""
    return is_typeddict(kind) or (isinstance(kind, type) and is_dataclass(kind))


def keys_of(section: Any) -> Mapping[str, Any]:
    """Returns the kind of each key of a section."""
    return _hints(section)


def section_of(kind: Any) -> Any:
    """Returns the section that values of a kind are, or may be instead of null; None for other kinds."""
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((part for part in parts if is_section(part)), None)


@cache
def _hints(section: Any) -> Mapping[str, Any]:
    return get_type_hints(section, include_extras=True)


def fits(value: Any, kind: Any) -> bool:
    """Tells whether a value is of a kind, with all that it holds.

    Numbers are finite, text has no NUL, and an annotation that says nothing about plain values allows all of them.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, arguments[0]) and all(rule.holds(value) for rule in _rules(kind))
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in arguments)
    if kind in _PLAIN:
        return _is_plain(value, kind)
    if is_section(kind):
        keys = keys_of(kind)
        return isinstance(value, Mapping) and all(name in keys and fits(value[name], keys[name]) for name in value)
    if (origin or kind) in _LISTS and arguments:
        if not isinstance(value, list | tuple) or len(value) > _MOST_VALUES:
            return False
        if origin is tuple and arguments[-1] is not Ellipsis:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        return all(fits(each, arguments[0]) for each in value)
    if origin is Mapping or origin is dict:
        return isinstance(value, Mapping) and all(
            fits(name, arguments[0]) and fits(each, arguments[1]) for name, each in value.items()
        )
    return _holds_plain(value)


def words(kind: Any) -> str:
    """Returns what a kind is called in a sentence, as in "a whole number from 1 to 9, or null"."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        between = " " if get_origin(arguments[0]) is None else ", "
        return between.join([words(arguments[0]), *(rule.words for rule in _rules(kind))])
    if origin in (Union, types.UnionType):
        some = [words(each) for each in arguments if each is not type(None)]
        return ", or ".join([*some, "null"] if type(None) in arguments else some)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
    if kind in _PLAIN:
        return _PLAIN[kind]
    if is_section(kind):
        keys = ", ".join(keys_of(kind))
        return f"set by its keys ({keys})" if keys else "a set of keys"
    if (origin or kind) in _LISTS and arguments:
        fixed = origin is tuple and arguments[-1] is not Ellipsis
        return f"a list{f' of {len(arguments)}' if fixed else ''}, each {words(arguments[0])}"
    if origin is Mapping or origin is dict:
        numbers = get_args(arguments[1])[:1] == (float,)
        return f"a set of keys, each with {words(arguments[1])}" if numbers else "a set of keys"
    return "a plain value"


def is_text(kind: Any) -> bool:
    """Tells whether all values of a kind are text, lists of text or null, so that digits in its place are text."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return is_text(arguments[0])
    if origin in (Union, types.UnionType):
        return all(is_text(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return all(isinstance(each, str) for each in arguments)
    if (origin or kind) in _LISTS and arguments:
        return is_text(arguments[0])
    return kind is str


def is_mapping(kind: Any) -> bool:
    """Tells whether values of a kind may be mappings whose keys are not fixed."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return is_mapping(arguments[0])
    if origin in (Union, types.UnionType):
        return any(map(is_mapping, arguments))
    return origin is Mapping


def choices(kind: Any) -> list[Any]:
    """Returns the values of every Literal in a kind."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in get_args(kind) for choice in choices(part)]


def _rules(kind: Any) -> list[Rule]:
    return [rule for rule in get_args(kind)[1:] if isinstance(rule, Rule)]


def _is_plain(value: Any, kind: Any) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is str:
        return isinstance(value, str) and len(value) <= _LONGEST_TEXT and "\0" not in value
    if kind is int:
        return isinstance(value, Integral) and _is_bounded(value)
    if kind is float:
        return isinstance(value, Real) and _is_bounded(value)
    return value is None


def _is_bounded(number: Any) -> bool:
    return bool(-_LARGEST <= number <= _LARGEST)


def _holds_plain(value: Any, depth: int = 0) -> bool:
    """Whether every number within a value is finite; objects of a program's own are left to it."""
    if depth > _DEEPEST:
        return False
    if isinstance(value, Mapping):
        return all(_holds_plain(each, depth + 1) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_holds_plain(each, depth + 1) for each in value)
    return not isinstance(value, float) or isfinite(value)
