"""Finds the images that paths name, and says what was left out."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import has_magic
from os.path import exists, isdir
from pathlib import Path

from mbv2kit.errors import UserError, first_few
from mbv2kit.imaging.formats import SUFFIXES
from mbv2kit.inference.output_folder import MARKER
from mbv2kit.inference.resuming import JOB


@dataclass(slots=True)
class Found:
    """The images that paths name.

    Attributes:
        images: Their paths, relative if the given paths are.
        folders: For each of the given paths the folder that it names, or that of the file.
        left_out: How many files of folders and patterns have a suffix that no image has, by suffix.
        made: How many images were left out because an earlier inference wrote them.
    """

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    made: int = 0

    def notes(self) -> list[str]:
        """Says in a line each what was left out."""
        notes = []
        if self.left_out:
            suffixes = first_few(f"{suffix} {count}" for suffix, count in self.left_out.most_common())
            notes.append(f"Left out: {_files(self.left_out.total())} that no suffix calls an image ({suffixes})")
        if self.made:
            notes.append(f"Left out: {_files(self.made)} that an earlier inference wrote")
        return notes


def find_images(paths: Iterable[str]) -> Found:
    """Lists the images that files, folders and patterns name.

    A folder names every image below it, sorted by path, and a pattern every image that matches, including ``**``. Both
    recognize images by their suffix and skip names that start with a dot, folders behind links, and what an earlier
    inference wrote; a single file may have any name. A missing file is kept if other images exist, so that only reading
    it fails.

    Args:
        paths: Files, folders and patterns, in the order of the result.

    Raises:
        UserError: A folder or pattern names no image, or none of the files exists.
    """
    found = Found()
    for name in paths:
        path = Path(name)
        if isdir(name):
            found.folders.append(path)
            _add(found, name, path, _below(path), "there is no image in this folder")
        elif has_magic(name) and not exists(name):
            folder, pattern = _split(path)
            found.folders.append(folder)
            _add(found, name, folder, _matching(folder, pattern), "this pattern matches no image")
        else:
            found.folders.append(path.parent)
            found.images.append(path)
    if not any(map(exists, found.images)):
        missing = ", ".join(map(str, found.images[:3])) + (", ..." if len(found.images) > 3 else "")
        raise UserError(f"There is no such file: {missing}; give images, folders or patterns that exist.")
    return found


def expand(paths: Iterable[str]) -> list[Path]:
    """Returns the images of :func:`find_images`."""
    return find_images(paths).images


def names_several(name: str) -> bool:
    """Returns whether a name is a folder or a pattern, which may name several images."""
    return isdir(name) or (has_magic(name) and not exists(name))


def _add(found: Found, name: str, folder: Path, files: Iterable[Path], problem: str) -> None:
    """Adds the images among some files below a folder; ``problem`` is what to say if there are none."""
    written: dict[Path, bool] = {folder: False, folder.parent: False}
    images, others, made = [], Counter[str](), 0
    for path in files:
        if path.name in (MARKER, JOB):
            continue
        if path.suffix.lower() not in SUFFIXES:
            others[path.suffix.lower() or "no suffix"] += 1
        elif _is_made(path.parent, written):
            made += 1
        else:
            images.append(path)
    if not images:
        there = f"found: {first_few(others)}; " if others else ""
        there += f"{_files(made)} left out that an earlier inference wrote; " if made else ""
        raise UserError(f"{name}: {problem}; {there}known suffixes: {' '.join(sorted(SUFFIXES))}.")
    found.images += sorted(images)
    found.left_out += others
    found.made += made


def _is_made(folder: Path, known: dict[Path, bool]) -> bool:
    """Returns whether inference wrote a folder or one above it, up to those that are known."""
    if folder not in known:
        known[folder] = (folder / MARKER).is_file() or _is_made(folder.parent, known)
    return known[folder]


def _below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (path for name in names if not name.startswith(".") and (path := Path(parent, name)).is_file())


def _split(pattern: Path) -> tuple[Path, list[str]]:
    """Splits a pattern into the folder before its first sign and the parts from there on."""
    first = next(i for i, part in enumerate(pattern.parts) if has_magic(part))
    return Path(*pattern.parts[:first]), list(pattern.parts[first:])


def _matching(folder: Path, parts: list[str]) -> Iterator[Path]:
    # glob.glob follows links to folders below **, and never ends where two of them lead back. There, ** within a part
    # means *, and ** at the end means every file.
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in parts]
    parts += ["*"] if parts[-1] == "**" else []
    hides = not any(part.startswith(".") for part in parts)
    for path in folder.glob("/".join(parts)):
        hidden = hides and any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
