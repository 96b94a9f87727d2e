"""Files that are written completely or not at all, and folders that no one else has."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mbv2kit.files.disk_errors import disk_errors_told

# Around the name of a file that is being written.
_PART = (".", ".part")


@contextmanager
def open_atomically(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Opens a file that replaces ``path`` in one step when all is written; until then the previous one stays.

    Args:
        path: The file, in an existing folder.
        durable: Whether it is on the disk before it takes its name, so that no loss of power leaves it empty.

    Raises:
        CannotWriteError: The file cannot be written; the previous file stays.
    """
    unfinished = path.with_name(f"{_PART[0]}{path.name}.{os.getpid()}{_PART[1]}")
    try:
        with disk_errors_told(path):
            with unfinished.open("wb") as file:
                yield file
                if durable:
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
