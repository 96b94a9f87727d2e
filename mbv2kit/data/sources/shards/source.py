"""The source of a data set in shards."""

import logging
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Annotated as Kind
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.data.inside import Border, PathOptions
from mbv2kit.data.sources.base import SOURCES, Source, layout_error
from mbv2kit.data.sources.shards.cache import BlockCache
from mbv2kit.data.sources.shards.reader import MemberReader
from mbv2kit.data.sources.shards.retries import Retries
from mbv2kit.data.sources.shards.storage import LocalFolder, MissingFileError, RemoteFolder, Storage
from mbv2kit.errors import UserError
from mbv2kit.files.caches import cache_folder
from mbv2kit.files.urls import is_url
from mbv2kit.imaging.images import EncodedImage, decode_content, reading
from mbv2kit.schema.rules import Location, between
from mbv2kit.structures import IGNORE, Annotated, Boxes, Sample, Task

_log = logging.getLogger(__name__)


@SOURCES.register("shards")
class Shards(Source):
    """Any task from the tars and the index that `mbv2kit make-shards` has written, in a folder or behind a URL.

    Training reads the tars in a random order and shuffles within a window, so that it reads nearly in sequence. The
    order is a function of the seed and the epoch. Every image is verified by its SHA-256. What comes from a URL is read
    ahead in blocks, which all workers and runs share on disk. Credentials come from where fsspec, boto and netrc look.

    Args:
        task: The task.
        root: The folder of ``index.parquet``, or its URL: ``https://``, ``s3://``, or what else fsspec has a package
            for.
        split: Name of the split.
        shuffle_window: Images within which training shuffles; all of them, or more, for a plain shuffle.
        cache_gb: Gigabytes that blocks of URLs may take on disk; 0 reads each image by itself, and again each epoch.
        cache_dir: Folder of these blocks, shared by all data sets; null for ``shards`` in ``$MBV2KIT_CACHE`` or
            the user's cache folder.
        retries: How often reading from a URL is tried again, after random waits of up to 0.5, 1, 2, ... 30 seconds.
        paths: Whether symbolic links may lead out of the root.

    Raises:
        UserError: The index is missing, or something in it is wrong; or the split has no such task.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"classification", "detection", "segmentation"})
    layout: ClassVar[str] = "  ROOT/index.parquet\n  ROOT/*.tar"
    reads_urls: ClassVar[bool] = True
    knows_classes: bool

    def __init__(
        self,
        *,
        task: Task,
        root: Path | str,
        split: str,
        shuffle_window: Kind[int, between(1, 10**12)] = 10_000,
        cache_gb: Kind[float, between(0, 1_000_000)] = 10.0,
        cache_dir: Location | None = None,
        retries: Kind[int, between(0, 100)] = 8,
        paths: PathOptions = PathOptions(),
    ) -> None:
        try:
            # With the other packages of the extra, these are needed only here.
            from mbv2kit.data.sources.shards.index import read_index
            from mbv2kit.data.sources.shards.schema import INDEX
        except ModuleNotFoundError as error:
            raise UserError(f"dataset=shards needs the package {error.name}: pip install 'mbv2kit[shards]'.") from None

        self._task = task
        self.knows_classes = task != "segmentation"
        self.shuffle_window = shuffle_window
        tries = Retries(retries)
        storage: Storage = (
            RemoteFolder(root, tries)
            if isinstance(root, str) and is_url(root)
            else LocalFolder(Path(root), Border(Path(root), paths))
        )
        try:
            content = storage.read(INDEX)
        except MissingFileError:
            raise layout_error(storage.place, f"there is no {INDEX}", self.layout) from None
        index = read_index(content, f"{storage.place}/{INDEX}", task, split)
        self.class_names = index.class_names
        self._place = storage.place
        self._index = index
        self._truth = index.truth
        limit = int(cache_gb * 1e9)
        cache = None if storage.is_local or not limit else BlockCache(_cache_folder(cache_dir), limit)
        self._reader = MemberReader(
            storage, index.shards, index.members, cache=cache, version=index.version, retries=tries
        )
        if storage.is_local:
            self._reader.check_lengths()
        elif cache is not None:
            self._warn_of_window(limit)

    def _warn_of_window(self, limit: int) -> None:
        """Warns where blocks are dropped before all of their images are used."""
        count = len(self._index.sizes)
        wanted = int(self._index.members.sizes.sum()) * min(1.0, self.shuffle_window / count)
        if wanted > limit:
            _log.warning(
                "%s: the images of dataset.shuffle_window=%d take %.1f GB, more than dataset.cache_gb=%g, so that they "
                "are read several times; change one of them",
                *(self._place, self.shuffle_window, wanted / 1e9, limit / 1e9),
            )

    def __len__(self) -> int:
        return len(self._truth.rows)

    def __getitem__(self, index: int) -> Sample:
        truth, row = self._truth, int(self._truth.rows[index])
        key = self._index.keys[row]
        shard = self._index.shards[self._index.members.shards[row]]
        image = decode_content(f"{self._place}/{shard}, key {key}", lambda: self._reader.read(row, key))
        size = tuple(self._index.sizes[row].tolist())
        if image.shape[:2] != size:
            raise UserError(
                f"{self._place}/{shard}: the image of key {key} has {image.shape[1]} x {image.shape[0]} pixels, but "
                f"the index says {size[1]} x {size[0]}; write the shards again."
            )
        sample = Sample(image=image, image_id=self._index.names[row])
        if truth.labels is not None:
            sample.label = int(truth.labels[index])
        if truth.table is not None:
            sample.boxes, sample.labels = truth.table.boxes(index), truth.table.labels(index)
            sample.crowd, sample.annotated = truth.table.crowd(index), self._annotated(index)
        if truth.masks is not None:
            sample.mask = self._mask(int(truth.masks[index]), f"{self._place}/{shard}, key {key}", key, size)
        return sample

    def _annotated(self, index: int) -> Annotated | None:
        truth = self._truth
        assert truth.annotated is not None
        assert truth.orders is not None
        if truth.orders[index] < 0:
            return None
        rows = truth.annotated[index]
        return Annotated(
            boxes=rows[:, :4].copy(),
            areas=rows[:, 4].copy(),
            class_ids=rows[:, 5].astype(np.int64),
            crowd=rows[:, 6] > 0,
            order=int(truth.orders[index]),
        )

    def _mask(self, member: int, name: str, key: str, size: tuple[int, ...]) -> NDArray[np.uint8]:
        content = self._reader.read(member, key)
        with reading(name, "mask"), PillowImage.open(BytesIO(content)) as image:
            mask = np.array(image)
        classes = len(self.class_names)
        if mask.dtype != np.uint8 or mask.shape != size or (mask[mask != IGNORE] >= classes).any():
            raise UserError(
                f"{name}: the mask must be a gray PNG of {size[1]} x {size[0]} pixels with classes below {classes}; "
                "write the shards again."
            )
        return mask

    def encoded_image(self, index: int) -> EncodedImage:
        """Returns the file of image ``index`` in its tar."""
        row = int(self._truth.rows[index])
        key = self._index.keys[row]
        return EncodedImage(self._reader.read(row, key), f"{key}{self._index.suffixes[row]}")

    def blocks(self) -> NDArray[np.int64]:
        """Returns the number of the tar of each image."""
        return self._index.members.shards[self._truth.rows]

    def image_names(self) -> Iterable[str]:
        """Yields the names from the index; no image is read."""
        return (self._index.names[row] for row in self._truth.rows.tolist())

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the class of the image, of its objects or of the pixels of its mask, from the index."""
        truth = self._truth
        if truth.labels is not None:
            return truth.labels[index : index + 1]
        if truth.table is not None:
            return np.where(truth.table.crowd(index), -1, truth.table.labels(index))
        assert truth.mask_classes is not None
        assert truth.mask_pixels is not None
        return np.repeat(truth.mask_classes[index], truth.mask_pixels[index])

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields sizes and boxes from the index; no image is read."""
        assert self._truth.table is not None
        return self._truth.table.objects(self._index.sizes[self._truth.rows])


def _cache_folder(chosen: str | None) -> Path:
    return (cache_folder() / "shards" if chosen is None else Path(chosen).expanduser()).absolute()
