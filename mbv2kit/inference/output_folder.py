"""The folder that inference writes: claimed before the first file, and never one that holds the user's own files."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from mbv2kit.errors import UserError
from mbv2kit.files.writing import claim_folder, open_atomically
from mbv2kit.inference.resuming import JOB, Job, check_same, read_job
from mbv2kit.models.run_folder import OUTPUTS

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

# Lists the files that inference writes into the folder of this file, each ended by a NUL. It is written before them.
MARKER = ".mbv2kit-infer"


@contextmanager
def claimed(
    named: str | None, inputs: Sequence[Path], files: Iterable[str], job: Job, *, resume: bool = False
) -> Iterator[Path]:
    """Claims the folder of results for this process while the ``with`` block runs.

    What an earlier inference wrote there is removed first, so that no old drawing stays next to new lines.

    Args:
        named: The folder, which is empty, missing, or written by inference; None for a new one with date and time.
        inputs: The images that will be read.
        files: Paths within the folder of all files that may be written.
        job: What decides the results.
        resume: Whether the results of the same job stay, instead of being removed.

    Yields:
        The folder.

    Raises:
        UserError: The folder holds an input or files that inference did not make, another process writes there, or
            its results are those of another job.
        OSError: The folder cannot be written.
    """
    if named is None:
        folder = claim_folder(OUTPUTS / "infer" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    else:
        folder = Path(named)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"output={folder} is a file; name a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        _check_no_input(folder, inputs)
        _check_ours(folder)
    with (folder / MARKER).open("a+b") as marker:
        if not _locks(marker):
            raise UserError(
                f"output={folder} is in use by another inference; wait for its end, or name another folder."
            )
        before = read_job(folder) if resume else None
        if before is not None:
            check_same(folder, before, job)
        else:
            _clear(folder, marker)
            marker.truncate(0)
            marker.writelines(os.fsencode(file) + b"\0" for file in (JOB, *files))
            marker.flush()
            with open_atomically(folder / JOB, durable=False) as notes:
                notes.write(json.dumps(job).encode())
        yield folder


def _check_ours(folder: Path) -> None:
    """Raises :class:`UserError` unless the folder is empty or inference wrote it."""
    if not (folder / MARKER).is_file() and (own := _first(folder.iterdir())) is not None:
        raise UserError(
            f"output={folder} holds {own.name}, which inference did not make and might overwrite; name a new or empty "
            "folder."
        )


def _check_no_input(folder: Path, inputs: Sequence[Path]) -> None:
    """Raises :class:`UserError` where an input lies in the folder, also by way of a link."""
    if _first(path for path in folder.iterdir() if path.name != MARKER) is None:
        return
    inside = os.path.join(os.path.realpath(folder), "")
    for path in inputs:
        if os.path.realpath(path).startswith(inside):
            raise UserError(
                f"output={folder} holds the image {path}, which is to be read and might be overwritten; "
                "name another folder."
            )


def _locks(marker: IO[bytes]) -> bool:
    """Locks the marker until it is closed or the process dies; returns False where another process has it."""
    if fcntl is not None:
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # A file system without locks still keeps the user's files apart from ours.
            pass
    return True


def _clear(folder: Path, marker: IO[bytes]) -> None:
    """Removes the files that the marker lists; a file that it does not list is the user's and ends it."""
    marker.seek(0)
    made = {os.fsdecode(file) for file in marker.read().split(b"\0")} | {MARKER}
    # Only what is found below the folder is removed, so a marker from elsewhere cannot name other files.
    found = [
        (os.path.relpath(os.path.join(parent, name), folder), os.path.join(parent, name))
        for parent, folders, names in os.walk(folder)
        for name in (*names, *(each for each in folders if os.path.islink(os.path.join(parent, each))))
    ]
    for name, _ in found:
        if Path(name).as_posix() not in made:
            raise UserError(f"output={folder} holds {name}, which inference did not make; name a new or empty folder.")
    for name, path in found:
        if name != MARKER:
            os.unlink(path)
    for parent, _, _ in os.walk(folder, topdown=False):
        if not os.path.samefile(parent, folder):
            with suppress(OSError):
                os.rmdir(parent)


def _first(paths: Iterable[Path]) -> Path | None:
    return next(iter(paths), None)
