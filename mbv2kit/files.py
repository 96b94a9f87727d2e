"""Writes files completely or not at all, and makes folders that no one else has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbv2kit.errors import UserError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces a file in one step, so that a crash or a full disk leaves the previous file.

    Args:
        path: The file, in an existing folder.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        OSError: The file cannot be written; the previous file stays.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


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
