"""Finds the images that paths name, and names the files that are made from them."""

from collections.abc import Iterable
from glob import glob, has_magic
from os.path import exists, isdir
from pathlib import Path

from mbv2kit.errors import UserError
from mbv2kit.imaging.formats import SUFFIXES


def expand(paths: Iterable[str]) -> list[Path]:
    """Lists the images that files, folders and patterns name.

    A folder names every image below it, sorted by path, and a pattern every image that matches, including ``**``. Both
    recognize images by their suffix and skip names that start with a dot; a single file may have any name. A missing
    file is kept if other images exist, so that only reading it fails.

    Args:
        paths: Files, folders and patterns, in the order of the result.

    Returns:
        The paths of the images, relative if the given paths are.

    Raises:
        UserError: A folder or pattern names no image, or none of the files exists.
    """
    images: list[Path] = []
    for name in paths:
        path = Path(name)
        if isdir(name):
            found = _images_among(item for item in path.rglob("*") if not _is_hidden(item, path))
            if not found:
                raise UserError(f"{name}: there is no image in this folder; known suffixes: {_known()}.")
            images += found
        elif has_magic(name) and not exists(name):
            found = _images_among(map(Path, glob(name, recursive=True)))
            if not found:
                raise UserError(f"{name}: this pattern matches no image; known suffixes: {_known()}.")
            images += found
        else:
            images.append(path)
    if not any(map(exists, images)):
        missing = ", ".join(map(str, images[:3])) + (", ..." if len(images) > 3 else "")
        raise UserError(f"There is no such file: {missing}; give images, folders or patterns that exist.")
    return images


def names_several(name: str) -> bool:
    """Returns whether a name is a folder or a pattern, which may name several images."""
    return isdir(name) or (has_magic(name) and not exists(name))


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _known() -> str:
    return " ".join(sorted(SUFFIXES))


def output_names(images: Iterable[Path]) -> list[str]:
    """Returns a name without suffix for each image: its stem, or ``stem_2`` and so on if that is taken.

    Names that differ only in case count as equal, as they do on some file systems.
    """
    names: list[str] = []
    taken: set[str] = set()
    for path in images:
        name, count = path.stem, 1
        while name.lower() in taken:
            count += 1
            name = f"{path.stem}_{count}"
        taken.add(name.lower())
        names.append(name)
    return names
