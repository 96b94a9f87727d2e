"""Lists the files of a folder at any depth, and says what it leaves out."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mbv2kit.data.inside import Border, is_within
from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.formats import SUFFIXES

# What lies in the folder of a run, of an evaluation and of predictions; each is told by all files of one row.
_OUTPUTS = ({"config.yaml", "checkpoints"}, {"metrics.json", "plots", "predictions"}, {".mbv2kit-infer"})


@dataclass(slots=True)
class Listing:
    """The images below a folder, and what lies next to them.

    Attributes:
        images: Paths relative to the folder, sorted; as text, because ImageNet has more than a million.
        others: The first file of each suffix that is not an image here, with the number of them.
        known: Links to folders that are listed anyway, or that hold the folder itself.
        special: Pipes, sockets, devices and links that lead nowhere.
        outputs: Folders that a command has written, whose images are predictions.
    """

    images: list[str] = field(default_factory=list)
    others: dict[str, tuple[str, int]] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def add(self, folder: str, below: "Listing") -> None:
        """Adds what lies in a folder of this one."""
        for mine, theirs in (
            (self.images, below.images),
            (self.known, below.known),
            (self.special, below.special),
            (self.outputs, below.outputs),
        ):
            mine += [f"{folder}/{name}" if name else folder for name in theirs]
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
            (self.outputs, "folders of runs, evaluations or predictions"),
        ):
            if names:
                found.append(f"{len(names)} {kind} (such as {names[0]})")
        return found


def list_images(folder: Path, border: Border) -> Listing:
    """Lists the images below a folder. Hidden files and folders are passed over.

    Links to folders are followed, but no folder is listed twice: one that links to itself would never end.

    Args:
        folder: Where to look.
        border: Where links may lead.

    Raises:
        UserError: A folder cannot be read, or a link leads out of the data set.
    """
    found = Listing()
    found.images = sorted(_walk(folder, found, border))
    return found


def has_images(folder: Path, border: Border) -> bool:
    """Tells whether there are images below a folder; raises as :func:`list_images`."""
    return next(_walk(folder, Listing(), border), None) is not None


def list_folders(folder: Path, border: Border) -> tuple[list[str], Listing]:
    """Lists the folders in a folder, sorted, and what else lies directly in it.

    A link to the folder itself or to one that holds it is no folder of its own.

    Raises:
        UserError: The folder cannot be read, or a link leads out of the data set.
    """
    found = Listing()
    folders = []
    top = os.path.realpath(border.check(folder))
    for entry in _visible(_entries(folder)):
        if not _holds(entry.is_dir):
            found.images += _note(entry, entry.name, found, border)
        elif is_within(top, os.path.realpath(entry.path)):
            found.known.append(entry.name)
        else:
            folders.append(entry.name)
    return folders, found


def _walk(folder: Path, found: Listing, border: Border) -> Iterator[str]:
    """Yields the images; notes in ``found`` what else there is."""
    top = os.path.realpath(border.check(folder))
    elsewhere: set[str] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        entries = _entries(folder / below)
        names = {entry.name for entry in entries}
        if any(names >= output for output in _OUTPUTS):
            found.outputs.append(below)
            continue
        for entry in _visible(entries):
            name = f"{below}/{entry.name}" if below else entry.name
            if not _holds(entry.is_dir):
                yield from _note(entry, name, found, border)
            elif _leads_into(entry, top, elsewhere):
                found.known.append(name)
            else:
                if entry.is_symlink():
                    border.check(Path(entry.path))
                waiting.append(name)


def _note(entry: "os.DirEntry[str]", name: str, found: Listing, border: Border) -> list[str]:
    """Returns the name of an image; notes anything else."""
    if not _holds(entry.is_file):
        found.special.append(name)
        return []
    suffix = os.path.splitext(name)[1].lower()
    if suffix in SUFFIXES:
        if entry.is_symlink():
            border.check(Path(entry.path))
        return [name]
    first, count = found.others.get(suffix, (name, 0))
    found.others[suffix] = (first, count + 1)
    return []


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({one_line(error)}).") from None


def _visible(entries: list["os.DirEntry[str]"]) -> Iterator["os.DirEntry[str]"]:
    return (entry for entry in entries if not entry.name.startswith("."))


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def _leads_into(entry: "os.DirEntry[str]", top: str, elsewhere: set[str]) -> bool:
    """Tells whether a folder is a link to one that is listed already; remembers those elsewhere."""
    if not entry.is_symlink():
        return False
    real = os.path.realpath(entry.path)
    if is_within(top, real) or is_within(real, top) or real in elsewhere:
        return True
    elsewhere.add(real)
    return False
