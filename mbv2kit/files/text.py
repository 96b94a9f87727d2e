"""Text files in any usual encoding."""

import codecs
import logging
import re
import stat
from pathlib import Path

from mbv2kit.errors import UserError, one_line

_log = logging.getLogger(__name__)

# The longer mark first: that of UTF-32 begins as that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_LAST_RESORT = "cp1252"


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file, such as a list of images or names of classes.

    The text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. What is none of them is read as Windows-1252, which
    old editors write, and the log says so.

    Raises:
        UserError: The file cannot be read, or it is no text.
    """
    try:
        # Reading a pipe would wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: this is no regular file; expected a text file.")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file could not be read ({getattr(error, 'strerror', None) or error}).") from None
    text = _decode(path, data)
    if "\0" in text:
        raise UserError(f"{path}: this is no text in UTF-8; save it as UTF-8.")
    # str.splitlines also splits at characters that a name may hold.
    lines = re.split("\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def _decode(path: Path, data: bytes) -> str:
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    try:
        return data.removeprefix(mark).decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        try:
            text = data.decode("ascii" if mark else _LAST_RESORT)
        except UnicodeDecodeError:
            raise UserError(f"{path}: this is no text in UTF-8 ({one_line(error)}); save it as UTF-8.") from None
    _log.warning("%s is not UTF-8; it is read as Windows-1252. Save it as UTF-8 if names look wrong", path)
    return text
