"""Keeps what is read of a data set below its folder, whatever the names in its files and its symbolic links say."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mbv2kit.errors import UserError

_ADVICE = "expected a path below dataset.root. If you trust the data set, set dataset.follow_outside=true."


@dataclass(frozen=True, slots=True)
class PathOptions:
    """Where the files of a data set may lie.

    Attributes:
        follow_outside: Whether names of files in annotations and lists, and symbolic links, may lead out of the data
            set's folder.
    """

    follow_outside: bool = False

    def check(self, name: str, named_in: Path) -> None:
        """Checks the name of a file that is taken from a file of the data set.

        Args:
            name: A path with slashes, relative to some folder of the data set.
            named_in: The file that holds the name, for the message.

        Raises:
            UserError: The name is absolute or leads out of the folder, which ``follow_outside`` does not allow.
        """
        if not self.follow_outside and leads_outside(name):
            raise UserError(f"{named_in}: the file name '{name[:200]}' leads out of the data set; {_ADVICE}")


class Border:
    """The border of a data set, which no symbolic link may cross unless ``follow_outside`` allows it.

    Args:
        root: The data set's folder.
        options: What the user allows.
    """

    def __init__(self, root: Path, options: PathOptions) -> None:
        self._top = os.path.realpath(root)
        self._open = options.follow_outside
        self._parents: dict[Path, str] = {}

    def check(self, path: Path) -> Path:
        """Returns a path that is about to be read.

        Args:
            path: A file or folder, which need not exist.

        Raises:
            UserError: It leads out of the data set, as symbolic links may.
        """
        if not self._open and not is_within(found := self._real(path), self._top):
            raise UserError(f"{path} leads out of the data set, to {found}; {_ADVICE}")
        return path

    def _real(self, path: Path) -> str:
        # Resolving a path asks for each of its parts; most files of a data set share all but the last.
        parent = path.parent
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        plain = not os.path.islink(path) and path.name != ".."
        return os.path.join(self._parents[parent], path.name) if plain else os.path.realpath(path)


def leads_outside(name: str) -> bool:
    """Returns whether a path is absolute, on any system, or climbs out of the folder that it is joined to."""
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return True
    depth = 0
    for part in PurePosixPath(name).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def is_within(path: str, folder: str) -> bool:
    """Returns whether a resolved path is a resolved folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
