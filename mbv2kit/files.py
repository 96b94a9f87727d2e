"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces a file in one step, so that a crash or a full disk leaves the file of before.

    Args:
        path: The file, in a folder that exists.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        OSError: The file cannot be written; nothing has changed then.
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
