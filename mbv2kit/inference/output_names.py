"""Names the files that are made from images, so that each name leads back to its image."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path, PurePath

# File systems take 255 bytes; the rest is for what is added to a name: a suffix, and a number where two are equal.
_MOST_BYTES = 228
# A folder of results and a name within it must fit into the 4,096 bytes of a path.
_MOST_PATH = 2000


def output_names(images: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Returns a name without suffix for each image: its path within the folder that all images have in common.

    ``photos/cat/0.png`` becomes ``cat/0`` if ``photos`` was named, or ``photos/cat`` and ``photos/dog``. Where a name
    is taken, ``_2`` and so on is added. Names that differ only in case count as equal, as they do on some file systems.

    Args:
        images: The images.
        folders: Folders that the images lie in or below.
    """
    common = _common(folders)
    names: list[str] = []
    taken: set[str] = set()
    # The number that was tried last for a name; otherwise many images of one name would take a time of their square.
    counts: dict[str, int] = {}
    for path in images:
        wanted = _within(path, common)
        name, count = wanted, counts.get(wanted.lower(), 1)
        while name.lower() in taken:
            count += 1
            name = f"{wanted}_{count}"
        counts[wanted.lower()] = count
        taken.add(name.lower())
        names.append(name)
    return names


def _common(folders: Sequence[Path]) -> str | None:
    """Returns the lowest folder above all of them; None where there is none, as on two drives."""
    try:
        return os.path.commonpath([os.path.abspath(folder) for folder in folders])
    except ValueError:
        return None


def _within(path: Path, common: str | None) -> str:
    """Returns the path of an image from a folder, without suffix; only its stem where it does not lie there."""
    stem = short_stem(path)
    if common is None:
        return stem
    parts = PurePath(os.path.relpath(os.path.abspath(path.parent), common)).parts
    if ".." in parts or len(os.fsencode(name := "/".join((*parts, stem)))) > _MOST_PATH:
        return stem
    return name


def short_stem(path: Path) -> str:
    """Returns the stem of a file; one that leaves no room for what is added to it is cut, and ends with a hash."""
    data = os.fsencode(path.stem)
    if len(data) <= _MOST_BYTES:
        return path.stem
    start = data[: _MOST_BYTES - 9].decode("utf-8", "ignore")
    return f"{start}-{sha256(data).hexdigest()[:8]}"
