"""Names made of digits: a value stays text where its key holds text, as in ``dataset.root=2012``."""

import re
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

_KEY = re.compile(r"([+~]{0,2})([A-Za-z_][\w./@-]*)=(.*)", re.DOTALL)
# What stands between commas and brackets; quoted text and functions, such as range(1,3), stay as they are.
_ITEM = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,\[\]{}()'"]+""")


def quote_names(lines: Sequence[str], keys: Collection[str]) -> list[str]:
    """Puts quotes around what the grammar of overrides would read as a number or a boolean in place of text.

    ``2012_1`` would become 20121 and ``1e3`` 1000.0. ``null`` stays null.

    Args:
        lines: ``key=value``, as given on a command line.
        keys: The dotted keys whose values are text.
    """
    return [_quote(line, keys) for line in lines]


def _quote(line: str, keys: Collection[str]) -> str:
    found = _KEY.fullmatch(line)
    if found is None or found[2] not in keys or found[3].lstrip().startswith("range("):
        return line
    return f"{found[1]}{found[2]}={_ITEM.sub(lambda item: _quote_item(item[0]), found[3])}"


def _quote_item(text: str) -> str:
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text  # reported with the whole line
    if not isinstance(value, bool | int | float):
        return text
    return QuotedString(text.strip(), Quote.single).with_quotes()
