"""Reads the lists of a data set with the layout of PASCAL VOC: of images, and of classes."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mbv2kit.data.inside import Border
from mbv2kit.data.listing import list_images
from mbv2kit.errors import UserError, first_few
from mbv2kit.files.text import read_lines

logger = logging.getLogger(__name__)

# A list of one class says in a last column whether an image shows the class: no, in part or yes.
_FLAGS = ("-1", "0", "1")


class ImageFiles:
    """The images of a folder at any depth, by the names that lists give them.

    Args:
        folder: The folder, such as ``JPEGImages``.
        border: Where links may lead.

    Attributes:
        left_out: What in the folder is no image that can be read, a part of a sentence for each kind.
    """

    def __init__(self, folder: Path, border: Border) -> None:
        self._folder = folder
        self._by_name: dict[str, list[str]] = {}
        listing = list_images(folder, border)
        self.left_out = listing.left_out()
        for file in listing.images:
            self._by_name.setdefault(file.rpartition(".")[0], []).append(file)
        self._files = {file: name for name, files in self._by_name.items() for file in files}

    def find(self, text: str) -> tuple[str, list[str]] | None:
        """Returns the name without suffix of the image that a text means, and the files that it may be.

        Args:
            text: A path below the folder, with or without suffix, with slashes of any kind.
        """
        for name in (text, text.replace("\\", "/").removeprefix("./").removeprefix(f"{self._folder.name}/")):
            if name in self._by_name:
                return name, self._by_name[name]
            if name in self._files:
                return self._files[name], [name]
        return None


def read_images(path: Path, files: ImageFiles) -> tuple[dict[str, str], list[str]]:
    """Reads a list of images.

    A line is the name of an image, which may hold blanks. Only where no image has that name, a last column of -1, 0 or
    1 is the flag of a list of one class.

    Args:
        path: The list.
        files: The images that there are.

    Returns:
        The file of each name, in the order of the list, and the names without a file.

    Raises:
        UserError: The list cannot be read, or a name means two files.
    """
    found: dict[str, str] = {}
    uses: Counter[str] = Counter()
    missing: list[str] = []
    for line, match in _matches(path, files):
        if match is None:
            missing.append(line)
            continue
        name, candidates = match
        candidates = list(dict.fromkeys([*candidates, found.get(name, candidates[0])]))
        if len(candidates) > 1:
            raise UserError(
                f"{path}: '{name}' may be {candidates[0]} or {candidates[1]}, which share one annotation; remove or "
                "rename one of the images."
            )
        found[name] = candidates[0]
        uses[name] += 1
    twice = [name for name, count in uses.items() if count > 1]
    if twice:
        lines = uses.total() - len(found)
        logger.info("%s: %d lines repeat an image, which counts once: %s", path, lines, first_few(twice))
    return found, missing


def names_in(path: Path, files: ImageFiles) -> set[str]:
    """Returns the names in a list of images that there are; a list that no one asked for may be faulty."""
    return {match[0] for _, match in _matches(path, files) if match is not None}


def _matches(path: Path, files: ImageFiles) -> Iterator[tuple[str, tuple[str, list[str]] | None]]:
    """Yields each line of a list, without a flag, and what :meth:`ImageFiles.find` finds."""
    for line in filter(None, map(str.strip, read_lines(path))):
        match = files.find(line)
        if match is None and len(line.split()) > 1 and line.split()[-1] in _FLAGS:
            line = line.rsplit(None, 1)[0]
            match = files.find(line)
        yield line, match


def read_classes(path: Path) -> tuple[str, ...]:
    """Reads a class per line; nothing if the file does not exist.

    Raises:
        UserError: The file cannot be read, is empty or names a class twice.
    """
    # A link that leads nowhere is an error.
    if not os.path.lexists(path):
        return ()
    names = [line.strip() for line in read_lines(path) if line.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        found = f"'{twice[0]}' is listed twice" if twice else "the file is empty"
        raise UserError(f"{path}: {found}; expected a class per line.")
    return tuple(names)
