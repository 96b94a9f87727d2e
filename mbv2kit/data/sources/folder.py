"""Reads images in a folder per class, with classes named by the folders or by a list of WordNet ids."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.sources.base import SOURCES, Source, layout_error, missing_split
from mbv2kit.data.table import Texts
from mbv2kit.errors import UserError
from mbv2kit.imaging.formats import SUFFIXES
from mbv2kit.imaging.images import decode
from mbv2kit.structures import Sample, Task


@SOURCES.register("folder")
class Folder(Source):
    """Classification from ``ROOT/SPLIT/CLASS/image``.

    The classes are the folders of all splits together, in alphabetical order, so that every split has the same classes.

    Args:
        task: Always ``classification``.
        root: Folder that holds a folder per split.
        split: Name of the folder of the split.

    Raises:
        UserError: The split does not exist or has no image.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"classification"})
    layout: ClassVar[str] = "  ROOT/train/CLASS/*.jpg\n  ROOT/val/CLASS/*.jpg"
    knows_classes = True

    def __init__(self, *, task: Task, root: Path, split: str) -> None:
        splits = {folder.name: found for folder in _subfolders(root) if (found := _class_folders(folder))}
        if not splits:
            raise layout_error(root, "no folder here holds class folders with images", self.layout)
        if split not in splits:
            raise missing_split(root, split, sorted(splits))
        classes = self._classes(root, sorted(set[str]().union(*splits.values())))
        self.class_names = tuple(classes.values())
        self._root = root / split
        files = [sorted(_images(self._root / folder)) for folder in classes]
        self._names = Texts(f"{folder}/{name}" for folder, names in zip(classes, files, strict=True) for name in names)
        self._labels = np.repeat(np.arange(len(classes)), [len(names) for names in files])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        return Sample(image=decode(self._root / name), image_id=name, label=int(self._labels[index]))

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the class of image ``index``; the image is not read."""
        return self._labels[index : index + 1]

    def _classes(self, root: Path, folders: list[str]) -> dict[str, str]:
        """Returns the class name of each folder, in the order of the classes."""
        return {folder: folder for folder in folders}


@SOURCES.register("imagenet")
class ImageNet(Folder):
    """ImageNet: class folders are WordNet ids (``n01440764``), ordered by id or as in ``ROOT/synsets.txt``.

    The list also names the classes. The id is appended to names of several classes (``crane``). Classes without a
    folder keep their place, so that labels fit models trained on all classes.
    """

    layout: ClassVar[str] = (
        "  ROOT/train/WNID/*.JPEG\n  ROOT/val/WNID/*.JPEG\n"
        "  ROOT/synsets.txt (optional: a line per class in order, WNID<tab>name)"
    )

    def _classes(self, root: Path, folders: list[str]) -> dict[str, str]:
        path = root / "synsets.txt"
        if not path.is_file():
            return super()._classes(root, folders)
        names = _read_synsets(path)
        unknown = [folder for folder in folders if folder not in names]
        if unknown:
            raise UserError(
                f"{path}: the class folder '{unknown[0]}' is not in this list; add a line for it or remove the folder."
            )
        uses = Counter(names.values())
        return {wnid: name if uses[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items()}


def _read_synsets(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        wnid, tab, name = line.partition("\t")
        if not line.strip():
            continue
        if not tab or not name.strip() or wnid in names:
            problem = f"the id '{wnid}' is listed twice" if wnid in names else f"'{line}' is not WNID<tab>name"
            raise UserError(f"{path}, line {number}: {problem}; expected one line per class.")
        names[wnid] = name.strip()
    return names


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(split: Path) -> set[str]:
    return {folder.name for folder in _subfolders(split) if next(_images(folder), None)}


def _images(folder: Path) -> Iterator[str]:
    """Finds images at any depth; as text, because ImageNet has more than a million."""
    for parent, _, files in os.walk(folder, followlinks=True):
        below = parent[len(str(folder)) + 1 :]
        for file in files:
            if os.path.splitext(file)[1].lower() in SUFFIXES and not file.startswith("."):
                yield f"{below}/{file}" if below else file
