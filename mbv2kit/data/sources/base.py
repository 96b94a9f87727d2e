"""The base of all data sets, and how one is opened by name."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.cleaning import ObjectFilter
from mbv2kit.errors import EXPECTED_LAYOUT, UserError, first_few, nearest
from mbv2kit.files.urls import is_url
from mbv2kit.imaging.encode import encode_png
from mbv2kit.imaging.images import EncodedImage
from mbv2kit.registry import Registry
from mbv2kit.schema.rules import Location, Name
from mbv2kit.structures import IGNORE, TASKS, Boxes, Sample, Task

logger = logging.getLogger(__name__)


class Source(ABC):
    """One split of a data set, opened for one task; samples hold only the ground truth of that task.

    Attributes:
        provides: Tasks that the data set supports.
        layout: The folders and files expected below the root, for messages; empty for a source that needs no files.
        class_names: Names of the task's classes; for segmentation including the background, if there is one.
        joins_classes: Whether ``splits`` is an argument, the named splits whose classes together are those of each.
        dropped_boxes: Number of annotated boxes that are dropped because they have no area in the image.
        knows_classes: Whether :meth:`class_ids` reads no file, and counts objects rather than pixels of a mask.
        left_out: Names of annotated classes whose objects are left out.
        shuffle_window: Images among which training shuffles, if there are :meth:`blocks`.
        reads_urls: Whether the root may be the URL of a folder.
    """

    provides: ClassVar[frozenset[Task]]
    layout: ClassVar[str]
    joins_classes: ClassVar[bool] = False
    reads_urls: ClassVar[bool] = False
    class_names: tuple[str, ...]
    dropped_boxes: int = 0
    knows_classes: bool = False
    left_out: tuple[str, ...] = ()
    shuffle_window: int = 1

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Reads image ``index`` and its ground truth."""

    def image_file(self, index: int) -> Path | None:
        """Returns the file of image ``index``, if the pixels of its sample are those that it decodes to.

        Training then decodes no more of it than it needs, and may cache it. None, as long as a source does not say
        otherwise, has the sample read as it is.
        """
        return None

    def encoded_image(self, index: int) -> EncodedImage:
        """Returns the content of the file of image ``index``; a PNG of its pixels, unless the source has files."""
        file = self.image_file(index)
        if file is not None:
            return EncodedImage.read(file)
        sample = self[index]
        return EncodedImage(encode_png(sample.image), f"{sample.image_id}.png")

    def blocks(self) -> NDArray[np.int64] | None:
        """Returns the number of the block that each image is stored in, ``(N,)``; None where any order reads as fast.

        Training then reads the blocks in a random order, and shuffles images within ``shuffle_window`` of each other.
        """
        return None

    def image_names(self) -> Iterable[str]:
        """Yields the ``image_id`` of every sample, in order; reads every image, unless the source knows better."""
        for index in range(len(self)):
            yield self[index].image_id

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields the (height, width) of every image and its ``(n, 4)`` boxes without crowds, in order.

        Reads every image, unless the source knows sizes and boxes already. Only for detection.
        """
        for index in range(len(self)):
            sample = self[index]
            assert sample.boxes is not None
            assert sample.crowd is not None
            yield (sample.image.shape[0], sample.image.shape[1]), sample.boxes[~sample.crowd]

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the class of image ``index``, of each of its objects, or of each of its pixels.

        Returns:
            ``(N,)``, with -1 for a crowd and for a pixel of 255. Reads the image, unless the source knows better.
        """
        sample = self[index]
        if sample.mask is not None:
            return ids_of_mask(sample.mask)
        if sample.labels is not None:
            assert sample.crowd is not None
            return np.where(sample.crowd, -1, sample.labels)
        return np.array([-1 if sample.label is None else sample.label])

    def _report_boxes(self, kept: ObjectFilter) -> None:
        """Counts dropped boxes, and logs them and what else is odd, a line for each kind."""
        self.dropped_boxes = sum(map(len, kept.dropped.values()))
        for reason, names in kept.dropped.items():
            if names:
                images = list(dict.fromkeys(names))
                logger.info(
                    "Dropped %d boxes%s %s in %d images: %s",
                    *(len(names), kept.of_file, reason, len(images), first_few(images)),
                )
        for warning in kept.warnings():
            logger.warning("%s", warning)


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """Options of every data set.

    Attributes:
        root: The data set's folder, absolute or relative to the current one; null for one that makes its own images;
            for shards also a URL.
        train_split: Name of the split to train on.
        val_split: Name of the split to validate and evaluate on.
        cache: Where training keeps decoded images: ``ram``, as long as it runs; ``disk``, for later runs too, in
            ``$MBV2KIT_CACHE`` or the user's cache folder; null keeps none.
    """

    root: Location | None = None
    train_split: Name = "train"
    val_split: Name = "val"
    cache: Literal["ram", "disk"] | None = None


SOURCES: Registry[Source] = Registry("dataset", "mbv2kit.data.sources", shared=SplitOptions(), several="datasets")


def create_source(
    name: str,
    *,
    task: Task,
    split: str,
    root: str | Path | None = None,
    splits: Sequence[str] = (),
    **options: Any,
) -> Source:
    """Opens the data set ``name`` for a task.

    Args:
        name: A name of ``SOURCES``.
        task: Task whose ground truth the samples hold.
        split: Part of the data set, such as ``train``.
        root: The data set's folder, absolute or relative to the current folder; None for a source that needs no files.
        splits: Splits whose classes belong together, such as ``train`` and ``val``.
        **options: Further arguments of the source.

    Raises:
        UserError: The name, the task, an option or the split is unknown, the source does not support the task, or the
            root does not have the expected layout.
    """
    folder = check_source(name, task, root)
    if SOURCES.get_class(name).joins_classes:
        # A model of these splits need not know the classes of another one.
        options["splits"] = tuple(splits) if split in splits else (split,)
    if folder is None:
        return SOURCES.create(name, task=task, split=split, **options)
    return SOURCES.create(name, task=task, split=split, root=folder, **options)


def check_source(name: str, task: Task, root: str | Path | None, key: str = "dataset") -> Path | str | None:
    """Checks the options of a data set without reading it, and returns its absolute folder.

    Args:
        name: A name of ``SOURCES``.
        task: Task whose ground truth the samples hold.
        root: The data set's folder.
        key: The key of the data set, for messages.

    Returns:
        The folder, or its URL; None for a source that needs no files.

    Raises:
        UserError: The name or the task is unknown, the source does not support the task, or it needs a folder and
            ``root`` is not one.
    """
    if task not in TASKS:
        raise UserError(f"There is no task '{task}'.{nearest(task, TASKS)}")
    serving = [each for each in SOURCES.names() if task in SOURCES.get_class(each).provides]
    source = SOURCES.get_class(name)
    if task not in source.provides:
        served = ", ".join(sorted(source.provides))
        raise UserError(f"dataset '{name}' serves {served}, not {task}; datasets that do: {', '.join(serving)}.")
    if not source.layout:
        if root is not None:
            raise UserError(f"dataset '{name}' makes its own images: leave {key}.root out (got {root}).")
        return None
    if root is None:
        fitting = ", ".join(each for each in serving if SOURCES.get_class(each).layout)
        raise UserError(
            f"dataset '{name}' needs {key}.root=FOLDER. Layouts for {task}: {fitting}. {_expected(source.layout)}"
        )
    if isinstance(root, str) and is_url(root):
        if not source.reads_urls:
            able = ", ".join(each for each in serving if SOURCES.get_class(each).reads_urls)
            raise UserError(
                f"{key}.root={root} is a URL, which dataset '{name}' cannot read; `mbv2kit make-shards` turns a data "
                f"set into one that can be read from there ({key}={able})."
            )
        return root
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise layout_error(folder, f"{key}.root is not an existing folder", source.layout)
    return folder


def open_source(dataset: Mapping[str, Any], task: Task, split: str) -> Source:
    """Opens a split of the data set that a config's ``dataset`` describes.

    Raises:
        UserError: The data set does not support the task, or its root or split does not exist.
    """
    options = dict(dataset)
    splits = [options.pop(key) for key in ("train_split", "val_split") if key in options]
    options.pop("cache", None)
    return create_source(options.pop("name"), task=task, split=split, splits=splits, **options)


def ids_of_mask(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns the class of each pixel of a mask, ``(H * W,)``, -1 for 255."""
    ids = mask.reshape(-1).astype(np.int64)
    ids[ids == IGNORE] = -1
    return ids


def layout_error(path: Path | str, found: str, layout: str) -> UserError:
    """Returns the error for a folder, or the URL of one, without the expected layout."""
    return UserError(f"{path.resolve() if isinstance(path, Path) else path}: {found}. {_expected(layout)}")


def missing_split(path: Path | str, split: str, splits: Sequence[str]) -> UserError:
    """Returns the error for a missing split, which lists the existing ones."""
    found = ", ".join(splits) or "none"
    return UserError(
        f"{path.resolve() if isinstance(path, Path) else path}: there is no split '{split}'; splits found: {found}. "
        "Name the ones to use with dataset.train_split=NAME dataset.val_split=NAME, for an evaluation with split=NAME."
    )


def _expected(layout: str) -> str:
    return f"{EXPECTED_LAYOUT}\n{layout}"
