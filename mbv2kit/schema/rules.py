"""Rules that an annotation adds to a type: ``width: Annotated[float, above(0, 8)]``, and types that many keys share.

Every range has two ends, so that no value takes more memory or time than a computer has, or leads to an overflow.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

# The longest side of an input in pixels: a float map of such an input with 32 channels still fits into memory.
LONGEST_SIDE = 8192
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
_HEAD = re.compile(r"(?!name$)[a-z][a-z0-9_]{0,63}", re.ASCII)
_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_REPOSITORY = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a value must be besides its type.

    Attributes:
        words: What follows the name of the type in a message, as in "a number *above 0 and at most 8*".
        holds: Tells whether a value of the type obeys.
    """

    words: str
    holds: Callable[[Any], bool]


def between(low: float, high: float) -> Rule:
    """Allows numbers from ``low`` to ``high``, both included."""
    return Rule(f"from {low:,} to {high:,}", lambda value: low <= value <= high)


def above(low: float, high: float) -> Rule:
    """Allows numbers above ``low``, up to ``high`` included."""
    return Rule(f"above {low:,} and at most {high:,}", lambda value: low < value <= high)


def below(low: float, high: float) -> Rule:
    """Allows numbers from ``low`` up to but not including ``high``."""
    return Rule(f"from {low:,} up and below {high:,}", lambda value: low <= value < high)


def among(*choices: int) -> Rule:
    """Allows some numbers."""
    return Rule(f"out of {', '.join(map(str, choices))}", lambda value: value in choices)


def _is_path(text: str) -> bool:
    try:
        path = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return 0 < len(path) <= _LONGEST_PATH and all(len(part) <= _LONGEST_NAME for part in path.split(b"/"))


NOT_EMPTY = Rule("with at least one character that is no space", lambda text: bool(text.strip()))
RISING = Rule("in rising order, each given once", lambda values: list(values) == sorted(set(values)))
ORDERED = Rule("the smaller first", lambda ends: ends[0] <= ends[1])
DISTINCT = Rule("each given once", lambda values: len(set(values)) == len(values))
FEW = Rule("at most 100 of them", lambda values: len(values) <= 100)
FILLED = Rule("at least one of them", lambda values: len(values) > 0)

# Text that names a file, a folder, a published model, or a pattern of files.
Location = Annotated[str, Rule(f"that is a path: not empty, no name in it longer than {_LONGEST_NAME} bytes", _is_path)]
Locations = Location | Annotated[Sequence[Location], FILLED]
Name = Annotated[str, NOT_EMPTY]
Names = Name | Annotated[Sequence[Name], FILLED]
# What the heads of a model are called: their tasks, or names of their own.
_HEAD_WORDS = "of small letters, digits and _, a letter first, other than name"
HeadName = Annotated[str, Rule(_HEAD_WORDS, lambda text: bool(_HEAD.fullmatch(text)))]
# What a served model is called in addresses.
ModelName = Annotated[
    str, Rule("of letters, digits, _ and -, a letter first", lambda text: bool(_MODEL_NAME.fullmatch(text)))
]
# OWNER/NAME on the Hugging Face Hub.
Repository = Annotated[str, Rule("of the form OWNER/NAME", lambda text: bool(_REPOSITORY.fullmatch(text)))]

Share = Annotated[float, between(0, 1)]
Fraction = Annotated[float, below(0, 1)]
Side = Annotated[int, between(1, LONGEST_SIDE)]
# Height and width in pixels.
Size = tuple[Side, Side]
Count = Annotated[int, between(1, 1_000_000)]
Cores = Annotated[int, between(1, 1024)]
Workers = Annotated[int, between(0, 512)]
Seed = Annotated[int, between(0, 2**32 - 1)]
Epochs = Annotated[float, between(0, 1_000_000)]
Stride = Annotated[int, among(8, 16, 32)]
_Pixel = Annotated[float, between(-1000, 1000)]
_Spread = Annotated[float, between(0.001, 100_000)]
# Of red, green and blue, for pixels in 0..255.
Mean = tuple[_Pixel, _Pixel, _Pixel]
Std = tuple[_Spread, _Spread, _Spread]
Rate = Annotated[int, between(1, 1000)]
Channels = Annotated[int, between(1, 65_536)]
