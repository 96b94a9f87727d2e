"""Keeps the paths that the files of a data set name below its folder."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from mbv2kit.errors import UserError


@dataclass(frozen=True, slots=True)
class PathOptions:
    """What data sets may do whose files name other files.

    Attributes:
        follow_outside: Whether names of files in annotations and lists may lead out of the data set's folder.
    """

    follow_outside: bool = False

    def check(self, name: str, named_in: Path) -> None:
        """Checks the name of a file that is taken from a file of the data set.

        Only the name counts: a symbolic link in the folder is the user's own way to lay out a data set.

        Args:
            name: A path with slashes, relative to some folder of the data set.
            named_in: The file that holds the name, for the message.

        Raises:
            UserError: The name is absolute or leads out of the folder, which ``follow_outside`` does not allow.
        """
        if not self.follow_outside and leads_outside(name):
            raise UserError(
                f"{named_in}: the file name '{name[:200]}' leads out of the data set; expected a path below "
                "dataset.root. If you trust the file, set dataset.follow_outside=true."
            )


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
