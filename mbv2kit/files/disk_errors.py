"""Errors of the disk, as sentences."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbv2kit.errors import UserError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = {
    **dict.fromkeys(_FULL, "make room, or name a folder on another disk"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "name a folder that you may write to"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG), "name another folder"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOENT), "look whether the folder is still there"),
}


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
        # The second name is the one that a file was to get.
        given = cause.filename if cause.filename2 is None else cause.filename2
        name = path if given is None else os.fsdecode(given)
        # A full disk is the same wherever it shows; other errors may be about a file that is read.
        place, written = Path(name).absolute(), Path(path).absolute()
        ours = place.is_relative_to(written) or written.is_relative_to(place)
        if cause.errno not in _FULL and not ours:
            raise
        raise CannotWriteError(name, cause) from None
