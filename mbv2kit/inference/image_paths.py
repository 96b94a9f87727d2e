"""Which images a command line names, and what to call the files that are made from them."""

from collections.abc import Iterable
from glob import glob, has_magic
from os.path import exists, isdir
from pathlib import Path

from mbv2kit.errors import UserError
from mbv2kit.imaging.images import SUFFIXES


def expand(paths: Iterable[str]) -> list[Path]:
    """Lists the images that files, folders and globs stand for.

    A folder stands for every image below it, sorted by path; a glob for those it matches, ``**`` included. Both know
    an image by its suffix and pass over names that start with a dot, while a file named by itself is taken whatever
    it is called. A single file that is missing is kept, since the images beside it can still be seen: reading it
    fails on its own.

    Args:
        paths: In the order in which the images shall come.

    Returns:
        Paths as they were given, those in a folder below the folder's.

    Raises:
        UserError: A folder or glob stands for no image, or not one of the files exists.
    """
    images: list[Path] = []
    for name in paths:
        path = Path(name)
        if isdir(name):
            found = _images_among(item for item in path.rglob("*") if not _is_hidden(item, path))
            if not found:
                raise UserError(f"{name}: there is no image in this folder; suffixes looked for: {_known()}.")
            images += found
        elif has_magic(name) and not exists(name):
            found = _images_among(map(Path, glob(name, recursive=True)))
            if not found:
                raise UserError(f"{name}: this pattern matches no image; suffixes looked for: {_known()}.")
            images += found
        else:
            images.append(path)
    if not any(map(exists, images)):
        missing = ", ".join(map(str, images[:3])) + (", ..." if len(images) > 3 else "")
        raise UserError(f"There is no such file: {missing}; give images, folders or patterns that exist.")
    return images


def names_several(name: str) -> bool:
    """Whether a name stands for a folder or a pattern, and so for any number of images."""
    return isdir(name) or (has_magic(name) and not exists(name))


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _known() -> str:
    return " ".join(sorted(SUFFIXES))


def output_names(images: Iterable[Path]) -> list[str]:
    """Returns a name without suffix for each image: its own stem, or ``stem_2`` and so on where that is taken.

    Names that differ in case alone count as the same, since some file systems take them so.
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
