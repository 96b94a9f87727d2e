"""Files: written completely or not at all, folders that no one else has, safe names, and text in any usual encoding."""

import codecs
import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

from mbv2kit.errors import UserError, one_line

_log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = {
    **dict.fromkeys(_FULL, "make room, or name a folder on another disk"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "name a folder that you may write to"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG), "name another folder"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOENT), "look whether the folder is still there"),
}


# The longer mark first: that of UTF-32 begins as that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_LAST_RESORT = "cp1252"
# Names that begin with a dot are hidden, and Windows drops a dot or a blank at the end.
_UNSAFE = re.compile(r'[%/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]|^[. ]|[. ]$')
# Around the name of a file that is being written.
_PART = (".", ".part")


class CannotWriteError(UserError, OSError):
    """A file that cannot be written, as a sentence; it is an OSError as well, for callers who know more to say.

    Args:
        path: The file or folder.
        error: What the system said.
    """

    def __init__(self, path: Path | str, error: OSError) -> None:
        reason = error.strerror or one_line(error)
        super().__init__(
            f"{path} cannot be written ({reason}); {_ADVICE.get(error.errno or 0, 'name another folder')}."
        )
        self.errno, self.strerror, self.filename = error.errno, reason, str(path)

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def disk_errors_told(path: Path | str) -> Iterator[None]:
    """Turns a disk that is full, read-only or gone into a sentence, whichever library was writing.

    Args:
        path: The folder or file that is written.

    Raises:
        CannotWriteError: Something could not be written.
    """
    try:
        yield
    except CannotWriteError:
        raise
    except (OSError, RuntimeError) as error:
        # torch replaces the error of the system with one of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in _ADVICE:
            raise
        name = path if cause.filename is None else os.fsdecode(cause.filename)
        # A full disk is the same wherever it shows; other errors may be about a file that is read.
        if cause.errno not in _FULL and not Path(name).is_relative_to(path):
            raise
        raise CannotWriteError(name, cause) from None


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that replaces ``path`` in one step when all is written; until then the previous one stays.

    Args:
        path: The file, in an existing folder.

    Raises:
        CannotWriteError: The file cannot be written; the previous file stays.
    """
    unfinished = path.with_name(f"{_PART[0]}{path.name}.{os.getpid()}{_PART[1]}")
    try:
        with disk_errors_told(path):
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces a file in one step, so that a crash or a full disk leaves the previous file.

    Args:
        path: The file, in an existing folder.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        CannotWriteError: The file cannot be written; the previous file stays.
    """
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_unfinished(folder: Path) -> None:
    """Removes what processes that were killed left of files in the middle of writing."""
    for path in folder.rglob(f"{_PART[0]}*.[0-9]*{_PART[1]}"):
        path.unlink(missing_ok=True)


def claim_folder(path: Path) -> Path:
    """Creates a folder that no other process has: ``path``, or ``path_2`` and so on where that exists already.

    Making a folder is atomic, so of several processes that ask for one name each gets its own.

    Args:
        path: The folder; those above it are created.

    Returns:
        The new, empty folder.

    Raises:
        OSError: The folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder, count = path, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
            folder = path.with_name(f"{path.name}_{count}")
        else:
            return folder


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns an error of the disk in the ``with`` block into a sentence; what was written stays.

    Args:
        name: What is written, such as ``output=DIR``.

    Raises:
        UserError: In place of OSError.
    """
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        raise UserError(f"{name} cannot be written ({reason}); name another folder.") from None


def safe_name(text: str, most_bytes: int = 255) -> str:
    """Returns a name for a file or folder that leads nowhere else and no other text gets.

    Characters that mean something in a path on any system, and those that cannot be shown, become ``%`` and two
    hexadecimal digits for each of their bytes, as in a URL; so does ``%``. A name that is too long ends with a hash.

    Args:
        text: Any text, such as the name of a class: ``car/truck`` becomes ``car%2Ftruck``, and ``..`` ``%2E%2E``.
        most_bytes: Bytes that the name may take, at least 64.
    """
    escaped = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in os.fsencode(found[0])), text) or "%"
    data = escaped.encode()
    if len(data) <= most_bytes:
        return escaped
    hashed = f"%~{sha256(os.fsencode(text)).hexdigest()[:32]}"
    return data[: most_bytes - len(hashed)].decode("utf-8", "ignore") + hashed


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
