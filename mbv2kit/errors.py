"""The exception for mistakes of the user, and helpers for the wording of its messages."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import get_args

# Behind it, a message has one more line for each path that is expected.
EXPECTED_LAYOUT = "Expected layout:"


class UserError(Exception):
    """A request that cannot be carried out; the message is one sentence.

    It names the file or key, what was found, what was expected and what to do. The tools print it as one line on
    stderr and exit with code 2. A mistake of the user never ends in a traceback.
    """


def nearest(word: object, known: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the closest of ``known``, or the whole list if none is close."""
    names = sorted(known)
    close = get_close_matches(str(word), names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""


def one_line(error: BaseException) -> str:
    """Returns the message of a library's error as one line that fits into a sentence.

    Returns:
        At most 300 characters, without the final period; the type of the error if it has no message.
    """
    return " ".join(str(error).split())[:300].rstrip(". ") or type(error).__name__


def first_few(names: Iterable[str]) -> str:
    """Joins up to five names with commas; ``, ...`` follows if there are more."""
    names = list(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def check_choice(option: str, value: str, choices: object) -> None:
    """Raises :class:`UserError` unless ``value`` is one of the strings of the Literal type ``choices``."""
    if value not in get_args(choices):
        raise UserError(f"{option} '{value}' is unknown.{nearest(value, get_args(choices))}")
