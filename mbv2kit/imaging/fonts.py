"""The font of drawings: Pillow's own, or one of the machine's for texts in other letters."""

from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont

# Pillow looks for them in the system's folders: those of Linux, macOS and Windows, from Latin to Chinese letters.
_SYSTEM = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
)
# No font has it, so it is drawn as a font draws what it lacks.
_NO_CHARACTER = "\uffff"


def font_for(size: int, texts: Iterable[str]) -> Font:
    """Returns a font for some texts: Pillow's own if it has all their characters, else the one that lacks fewest.

    Args:
        size: Height of the letters in pixels.
        texts: What is to be drawn.
    """
    return _best(size, frozenset(character for text in texts for character in text if not character.isascii()))


@lru_cache
def _best(size: int, characters: frozenset[str]) -> Font:
    own = ImageFont.load_default(size)
    assert isinstance(own, Font)
    missing = _lacking(own, characters)
    best = own
    for path in _installed() if missing else ():
        other = ImageFont.truetype(path, size)
        if lacking := _lacking(other, characters):
            if lacking < missing:
                best, missing = other, lacking
        else:
            return other
    return best


def _lacking(font: Font, characters: Iterable[str]) -> int:
    box = font.getmask(_NO_CHARACTER)
    masks = (font.getmask(character) for character in characters)
    return sum(mask.size == box.size and bytes(mask) == bytes(box) for mask in masks)


@cache
def _installed() -> tuple[str, ...]:
    """Returns the files of the fonts that this machine has, that of matplotlib included."""
    matplotlib = find_spec("matplotlib")
    own = [] if matplotlib is None else [Path(str(matplotlib.origin)).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"]
    return tuple(str(name) for name in (*own, *_SYSTEM) if _opens(str(name)))


def _opens(name: str) -> bool:
    try:
        ImageFont.truetype(name, 10)
    except OSError:
        return False
    return True
