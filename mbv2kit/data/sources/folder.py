"""Reads images in a folder per class, with classes named by the folders or by a list of WordNet ids."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.inside import Border, PathOptions
from mbv2kit.data.listing import Listing, has_images, list_folders, list_images
from mbv2kit.data.names import rewritten
from mbv2kit.data.sources.base import SOURCES, EncodedImage, Source, layout_error, missing_split
from mbv2kit.data.table import Texts
from mbv2kit.errors import UserError
from mbv2kit.files.text import read_lines
from mbv2kit.imaging.images import decode
from mbv2kit.structures import Sample, Task

logger = logging.getLogger(__name__)


@SOURCES.register("folder")
class Folder(Source):
    """Classification from ``ROOT/SPLIT/CLASS/image``.

    The classes are the folders of the training and the validation split together, in alphabetical order, so that both
    have the same classes.

    Args:
        task: Always ``classification``.
        root: Folder that holds a folder per split.
        split: Name of the folder of the split.
        splits: Names of the splits whose classes belong together; those without a folder do not count.
        paths: Whether symbolic links may lead out of the root.

    Raises:
        UserError: The split does not exist or has no image, two splits write a class differently, or a link leads out
            of the root.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"classification"})
    layout: ClassVar[str] = "  ROOT/train/CLASS/*.jpg\n  ROOT/val/CLASS/*.jpg"
    knows_classes = True
    joins_classes: ClassVar[bool] = True
    _advice: ClassVar[str] = ""

    def __init__(
        self, *, task: Task, root: Path, split: str, splits: Sequence[str], paths: PathOptions = PathOptions()
    ) -> None:
        border = Border(root, paths)
        folders = {name: _class_folders(root / name, border) for name in dict.fromkeys((split, *splits))}
        if not folders[split]:
            raise self._no_classes(root, split)
        _check_forms(root, {name: found for name, found in folders.items() if found})
        classes = self._classes(root, sorted(set[str]().union(*folders.values())), border)
        self.class_names = tuple(classes.values())
        self._root = root / split
        here, found = list_folders(self._root, border)
        loose = len(found.images)
        counts = []
        for folder in classes:
            listing = list_images(self._root / folder, border) if folder in folders[split] else Listing()
            counts.append(len(listing.images))
            found.add(folder, listing)
        for folder in here:
            # A folder without images is no class, but what lies there may be meant as images.
            if folder not in folders[split]:
                found.add(folder, list_images(self._root / folder, border))
        self._names = Texts(found.images[loose:])
        self._labels = np.repeat(np.arange(len(classes)), counts)
        left_out = [f"{loose} images outside the class folders"] * bool(loose) + found.left_out()
        if left_out:
            logger.info("Left out in %s: %s", self._root, "; ".join(left_out))

    def _no_classes(self, root: Path, split: str) -> UserError:
        folder = root / split
        # Nothing is read here, so links may lead where they want.
        anywhere = Border(root, PathOptions(follow_outside=True))
        loose = len(list_folders(folder, anywhere)[1].images) if folder.is_dir() else 0
        if loose:
            return UserError(
                f"{folder}: {loose} images lie here without class folders; move each into a folder with the name of "
                f"its class.{self._advice}"
            )
        others = list_images(folder, anywhere).left_out() if folder.is_dir() else []
        if others:
            return UserError(f"{folder}: there is no image here that can be read, but {' and '.join(others)}.")
        splits = [name for name in list_folders(root, anywhere)[0] if _class_folders(root / name, anywhere)]
        if not splits:
            return layout_error(root, "no folder here holds class folders with images", self.layout)
        return missing_split(root, split, splits)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        return Sample(image=decode(self._root / name), image_id=name, label=int(self._labels[index]))

    def encoded_image(self, index: int) -> EncodedImage:
        """Returns the file of image ``index``."""
        return EncodedImage.read(self._root / self._names[index])

    def image_names(self) -> Iterable[str]:
        """Returns the paths of the images within the split; no image is read."""
        return self._names

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the class of image ``index``; the image is not read."""
        return self._labels[index : index + 1]

    def _classes(self, root: Path, folders: list[str], border: Border) -> dict[str, str]:
        """Returns the class name of each folder, in the order of the classes."""
        return {folder: folder for folder in folders}


@SOURCES.register("imagenet")
class ImageNet(Folder):
    """ImageNet: class folders are WordNet ids (``n01440764``), ordered by id or as in ``ROOT/synsets.txt``.

    The list also names the classes. The id is appended to names of several classes (``crane``). Classes without a
    folder keep their place, so that labels fit models trained on all classes.
    """

    _advice: ClassVar[str] = " The validation images of ImageNet are sorted by the ids of the development kit's list."
    layout: ClassVar[str] = (
        "  ROOT/train/WNID/*.JPEG\n  ROOT/val/WNID/*.JPEG\n"
        "  ROOT/synsets.txt (optional: a line per class in order, WNID<tab>name)"
    )

    def _classes(self, root: Path, folders: list[str], border: Border) -> dict[str, str]:
        path = root / "synsets.txt"
        # A link that leads nowhere is an error.
        if not os.path.lexists(path):
            return super()._classes(root, folders, border)
        names = _read_synsets(border.check(path))
        unknown = [folder for folder in folders if folder not in names]
        if unknown:
            raise UserError(
                f"{path}: the class folder '{unknown[0]}' is not in this list; add a line for it or remove the folder."
            )
        uses = Counter(names.values())
        return {wnid: name if uses[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items()}


def _read_synsets(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        wnid, tab, name = line.partition("\t")
        if not line.strip():
            continue
        if not tab or not name.strip() or wnid in names:
            problem = f"the id '{wnid}' is listed twice" if wnid in names else f"'{line}' is not WNID<tab>name"
            raise UserError(f"{path}, line {number}: {problem}; expected one line per class.")
        names[wnid] = name.strip()
    return names


def _class_folders(split: Path, border: Border) -> set[str]:
    if not split.is_dir():
        return set()
    return {name for name in list_folders(split, border)[0] if has_images(split / name, border)}


def _check_forms(root: Path, folders: Mapping[str, set[str]]) -> None:
    """Refuses a class that two splits write differently; it would become two classes."""
    for split, other in combinations(folders, 2):
        for name, form in rewritten(folders[split], folders[other]):
            raise UserError(
                f"{root}: the class folders {split}/{name} and {other}/{form} differ only by case, underscores or the "
                "form of their Unicode; give them one name."
            )
