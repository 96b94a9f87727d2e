"""Names stay as they are typed where a key holds text, as in ``dataset.root=2012`` and ``run_dir='Für später (2)'``."""

import os
import re
from collections.abc import Collection, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

_KEY = re.compile(r"([+~]{0,2})([A-Za-z_][\w./@-]*)=(.*)", re.DOTALL)
# What stands between commas and brackets; quoted text and functions, such as range(1,3), stay as they are.
_ITEM = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,\[\]{}()'"]+""")
_UNREADABLE = object()


def quote_names(lines: Sequence[str], keys: Collection[str]) -> list[str]:
    """Puts quotes around what the grammar of overrides would read as a number or a boolean, or not at all.

    ``2012_1`` would become 20121 and ``1e3`` 1000.0; umlauts and parentheses are no part of the grammar. ``null`` stays
    null, and what is a list or a choice of several values to the grammar stays one.

    Args:
        lines: ``key=value``, as given on a command line.
        keys: The dotted keys whose values are text.
    """
    return [_quote(line, keys) for line in lines]


def _quote(line: str, keys: Collection[str]) -> str:
    found = _KEY.fullmatch(line)
    if found is None or found[2] not in keys or found[3].lstrip().startswith("range("):
        return line
    key, value = f"{found[1]}{found[2]}", _ITEM.sub(lambda item: _quote_item(item[0]), found[3])
    if _parse(value) is _UNREADABLE:
        value = _quote_items(found[3].strip())
    return f"{key}={value}"


def _quote_items(text: str) -> str:
    """Quotes each item of a list by its commas, as in ``[a (2),b]``; anything else is one name."""
    listed = text.startswith("[") and text.endswith("]")
    value = f"[{','.join(map(_quote_item, text[1:-1].split(',')))}]" if listed else _quoted(text)
    return _quoted(text) if _parse(value) is _UNREADABLE else value


def _quote_item(text: str) -> str:
    value = _parse(text)
    return _quoted(text) if value is _UNREADABLE or isinstance(value, bool | int | float) else text


def _parse(text: str) -> Any:
    try:
        return OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return _UNREADABLE


def _quoted(text: str) -> str:
    # Shells leave the tilde behind key= as it is, and a folder of that name is never meant.
    name = os.path.expanduser(text.strip()) if text.lstrip().startswith("~/") else text.strip()
    return QuotedString(name, Quote.single).with_quotes()
