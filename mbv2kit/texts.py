"""Makes text that comes from files, such as names of classes and images, harmless where it is shown."""

import re
import unicodedata
from html import escape

# Control characters, marks that change the direction of the text, lone surrogates, and ends of lines.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# They join or separate the letters of several scripts and the parts of emoji.
_JOINERS = "\u200c\u200d"


def shown(text: str) -> str:
    r"""Returns a text for a screen, a log or a drawing: one line, without characters that act rather than show.

    A name may hold escape sequences, which a terminal would obey, a bell, line breaks, marks that turn the text around
    it, or bytes that are not UTF-8. They become ``\x1b``, ``\n``, ``\u202e`` or ``\udcff``.
    """
    if text.isprintable():
        return text
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")


def markdown_code(text: str) -> str:
    """Formats a text as code of one line, so that Markdown and HTML in it have no effect."""
    text = shown(" ".join(text.split()))
    if not text:
        return "(empty)"
    # Code may contain shorter rows of backticks than those around it.
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in (text[0], text[-1]) else f"{fence}{text}{fence}"


def markdown_text(text: str) -> str:
    """Formats a text for a line of Markdown, so that Markdown and HTML have no effect; ``_`` within words stays."""
    text = shown(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def html_text(text: str) -> str:
    """Formats a text for HTML, within elements and attributes."""
    return escape(shown(" ".join(text.split())))
