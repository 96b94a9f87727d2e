"""Writes files completely or not at all."""

import os
from pathlib import Path


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
