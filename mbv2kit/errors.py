"""The one error that users are meant to see, and the sentence that suggests what they meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import get_args


class UserError(Exception):
    """A request that cannot be carried out, said in one sentence.

    The message names the file or key, what was found, what was expected and what to do. The tools print it
    as one line on stderr and exit with code 2; nothing else in the project prints a traceback for a user's slip.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the closest of ``known``, or the whole list where none is close."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""


def check_choice(option: str, value: str, choices: object) -> None:
    """Raises :class:`UserError` unless ``value`` is one of the strings of the Literal type ``choices``."""
    if value not in get_args(choices):
        raise UserError(f"{option} '{value}' is unknown.{nearest(value, get_args(choices))}")
