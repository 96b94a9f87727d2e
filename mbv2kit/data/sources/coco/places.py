"""Finds the files of a data set in COCO's format: the JSON of a split, and the folder of its images."""

import os
from collections.abc import Sequence
from pathlib import Path

from mbv2kit.data.inside import Border, PathOptions, is_within, leads_outside
from mbv2kit.data.sources.base import layout_error, missing_split
from mbv2kit.errors import UserError, first_few

# ROOT itself for Label Studio, whose names begin with "images/".
_IMAGE_FOLDERS = ("images/{split}", "{split}", "images", ".")


def find_annotations(root: Path, split: str, pattern: str, paths: PathOptions, layout: str) -> Path:
    """Returns the JSON file of a split.

    Raises:
        UserError: A link to it leads out of the data set, or there is none; the message lists the splits that there
            are, or the expected layout.
    """
    path = root / pattern.replace("{split}", split)
    if path.is_file():
        return path if leads_outside(pattern) else Border(root, paths).check(path)
    before, mark, after = pattern.partition("{split}")
    if mark and not Path(pattern).is_absolute():
        others = (other.relative_to(root).as_posix() for other in root.glob(pattern.replace(mark, "*")))
        found = sorted(other.removeprefix(before).removesuffix(after) for other in others)
        if found:
            raise missing_split(root, split, found)
    raise layout_error(path, "there is no such file", layout)


def find_images(root: Path, split: str, file: Path, names: Sequence[str], paths: PathOptions, layout: str) -> Path:
    """Returns the folder of the images, after checking that every one is there.

    Folders are listed rather than files looked up one by one, which is slow for the hundred thousand images of COCO.

    Args:
        root: The data set's folder.
        split: Name of the split.
        file: The JSON file; its folder is looked in too.
        names: Names of the images, relative to the folder, with slashes.
        paths: What the names may be.
        layout: The expected layout, for the message.

    Raises:
        UserError: An image is missing, or its name or a link leads out of the data set.
    """
    for name in names:
        paths.check(name, file)
    folders = [*(root / folder.replace("{split}", split) for folder in _IMAGE_FOLDERS), file.parent]
    best, missing = folders[0], list(names)
    for folder in filter(Path.is_dir, folders):
        # A listing may spell a name differently, for example on a file system that ignores capitals.
        left = [name for name in _not_listed(folder, names) if not _is_file(folder / name)]
        if len(left) < len(missing):
            best, missing = folder, left
        if not left:
            break
    if names and len(missing) == len(names):
        raise layout_error(root, f"the first image, {names[0]}, is in none of the expected folders", layout)
    if missing:
        raise UserError(
            f"{best}: {len(missing)} of the {len(names)} images that {file.name} lists are missing: "
            f"{first_few(missing)}; add them, or remove them from the file."
        )
    # Only the user can have named a file elsewhere, next to its images.
    elsewhere = best == file.parent and not is_within(os.path.realpath(best), os.path.realpath(root))
    border = Border(best if elsewhere else root, paths)
    for name in names:
        border.check(best / name)
    return best


def _not_listed(folder: Path, names: Sequence[str]) -> list[str]:
    listings: dict[str, frozenset[str]] = {}
    left = []
    for name in names:
        parent, _, last = name.rpartition("/")
        if parent not in listings:
            listings[parent] = _list_files(folder / parent)
        if last not in listings[parent]:
            left.append(name)
    return left


def _list_files(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return frozenset()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long
        return False
