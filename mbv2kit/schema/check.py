"""Checks values by the annotations of their names; what does not fit is one sentence: key, found, expected."""

from collections.abc import Mapping
from dataclasses import fields
from reprlib import Repr
from typing import Any

from mbv2kit.errors import UserError, nearest
from mbv2kit.schema.kinds import choices, fits, keys_of, section_of, words

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlong = 40
_WORDS = {None: "null", True: "true", False: "false"}


def check_value(key: str, value: Any, kind: Any, *, complete: bool = False) -> None:
    """Checks a value of a key, and the keys below it.

    Args:
        key: Dotted name of the key, with which the message begins; empty for a whole configuration.
        value: Plain values: None, booleans, numbers, text, lists and dictionaries.
        kind: The annotation of the key.
        complete: Whether all keys of a section must be there.

    Raises:
        UserError: The value, or one below it, is not of its kind.
    """
    section = section_of(kind)
    if section is None or not isinstance(value, Mapping):
        if not fits(value, kind):
            raise UserError(f"{key or 'the whole'} must be {words(kind)}, got {shown(value)}.{_hint(value, kind)}")
        return
    prefix = f"{key}." if key else ""
    for name, its in keys_of(section).items():
        if name in value:
            check_value(f"{prefix}{name}", value[name], its, complete=complete)
        elif complete and name in getattr(section, "__required_keys__", (name,)):
            raise UserError(f"'{prefix}{name}' is missing; it must be {words(its)}.")


def _hint(value: Any, kind: Any) -> str:
    """Returns `` Did you mean 'x'?`` for a word that is nearly a choice."""
    if not isinstance(value, str):
        return ""
    hint = nearest(value, [choice for choice in choices(kind) if isinstance(choice, str)])
    return "" if hint.startswith(" Known") else hint


def check_fields(options: Any) -> None:
    """Checks the fields of a dataclass by their annotations; for its ``__post_init__``.

    Raises:
        UserError: A value is not of its kind; the message begins with the name of the field.
    """
    kinds = keys_of(type(options))
    for field in fields(options):
        check_value(field.name, getattr(options, field.name), kinds[field.name])


def shown(value: Any) -> str:
    """Returns a value as it is written in a configuration, in one line of bounded length."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return _REPR.repr(value)
