"""Lists the files of a folder at any depth, and says what it leaves out."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.formats import SUFFIXES


@dataclass(slots=True)
class Listing:
    """The images below a folder, and what lies next to them.

    Attributes:
        images: Paths relative to the folder, sorted; as text, because ImageNet has more than a million.
        others: The first file of each suffix that is not an image here, with the number of them.
        known: Links to folders that are listed anyway, or that hold the folder itself.
        special: Pipes, sockets, devices and links that lead nowhere.
    """

    images: list[str] = field(default_factory=list)
    others: dict[str, tuple[str, int]] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    def add(self, folder: str, below: "Listing") -> None:
        """Adds what lies in a folder of this one."""
        for mine, theirs in (
            (self.images, below.images),
            (self.known, below.known),
            (self.special, below.special),
        ):
            mine += [f"{folder}/{name}" for name in theirs]
        for suffix, (name, number) in below.others.items():
            first, count = self.others.get(suffix, (f"{folder}/{name}", 0))
            self.others[suffix] = (first, count + number)

    def left_out(self) -> list[str]:
        """Returns what was left out, a part of a sentence for each kind."""
        kinds = Counter({suffix: count for suffix, (_, count) in self.others.items()}).most_common()
        found = []
        if kinds:
            count = sum(number for _, number in kinds)
            suffixes = ", ".join(f"{number} {suffix or 'without suffix'}" for suffix, number in kinds[:5])
            more = ", ..." if len(kinds) > 5 else ""
            first = self.others[kinds[0][0]][0]
            found.append(f"{count} files that cannot be read as images ({suffixes}{more}; such as {first})")
        for names, kind in (
            (self.known, "links to folders that are read anyway"),
            (self.special, "pipes, devices or links that lead nowhere"),
        ):
            if names:
                found.append(f"{len(names)} {kind} (such as {names[0]})")
        return found


def list_images(folder: Path) -> Listing:
    """Lists the images below a folder. Hidden files and folders are passed over.

    Links to folders are followed, but no folder is listed twice: one that links to itself would never end.

    Raises:
        UserError: A folder cannot be read.
    """
    found = Listing()
    found.images = sorted(_walk(folder, found))
    return found


def has_images(folder: Path) -> bool:
    """Tells whether there are images below a folder; raises as :func:`list_images`."""
    return next(_walk(folder, Listing()), None) is not None


def list_folders(folder: Path) -> tuple[list[str], Listing]:
    """Lists the folders in a folder, sorted, and what else lies directly in it.

    A link to the folder itself or to one that holds it is no folder of its own.

    Raises:
        UserError: The folder cannot be read.
    """
    found = Listing()
    folders = []
    top = os.path.realpath(folder)
    for entry in _entries(folder):
        if not _holds(entry.is_dir):
            found.images += _note(entry, entry.name, found)
        elif _is_above(os.path.realpath(entry.path), top):
            found.known.append(entry.name)
        else:
            folders.append(entry.name)
    return folders, found


def _walk(folder: Path, found: Listing) -> Iterator[str]:
    """Yields the images; notes in ``found`` what else there is."""
    top = os.path.realpath(folder)
    outside: set[str] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in _entries(folder / below):
            name = f"{below}/{entry.name}" if below else entry.name
            if not _holds(entry.is_dir):
                yield from _note(entry, name, found)
            elif _leads_into(entry, top, outside):
                found.known.append(name)
            else:
                waiting.append(name)


def _note(entry: "os.DirEntry[str]", name: str, found: Listing) -> list[str]:
    """Returns the name of an image; notes anything else."""
    if not _holds(entry.is_file):
        found.special.append(name)
        return []
    suffix = os.path.splitext(name)[1].lower()
    if suffix in SUFFIXES:
        return [name]
    first, count = found.others.get(suffix, (name, 0))
    found.others[suffix] = (first, count + 1)
    return []


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({one_line(error)}).") from None


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _leads_into(entry: "os.DirEntry[str]", top: str, outside: set[str]) -> bool:
    """Tells whether a folder is a link to one that is listed already; remembers those outside."""
    if not entry.is_symlink():
        return False
    real = os.path.realpath(entry.path)
    if _is_above(real, top) or _is_above(top, real) or real in outside:
        return True
    outside.add(real)
    return False


def _is_above(folder: str, other: str) -> bool:
    return other == folder or other.startswith(folder.rstrip(os.sep) + os.sep)
