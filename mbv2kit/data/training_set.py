"""The samples of training: read, augmented, and decoded no further than their views need."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from mbv2kit.data.augment import Augment
from mbv2kit.data.image_cache import ImageCache
from mbv2kit.data.joined import Joined
from mbv2kit.data.order import Place
from mbv2kit.data.transport import naming
from mbv2kit.imaging.images import decoded_once
from mbv2kit.imaging.parts import FileParts, Parts
from mbv2kit.structures import Sample


class TrainingSet(Dataset[Sample]):
    """Augmented samples; each is a pure function of the seed and its place in the order, in any process.

    Args:
        source: The images.
        augment: Makes training samples of one size.
        seed: Seed of the augmentation.
        caches: For each data set of ``source`` what keeps its images, if anything does.
    """

    def __init__(
        self, source: Joined, augment: Augment, seed: int, caches: Sequence[ImageCache | None] | None = None
    ) -> None:
        self._source = source
        self._caches = [None] * len(source.counts) if caches is None else caches
        self._ends = np.cumsum(source.counts)
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, place: Place) -> Sample:
        epoch, index, *turn = place
        sample, parts = self._read(index)
        rng = np.random.default_rng((self._seed, epoch, index, *turn))
        with naming(f"{sample.image_id}: augmentation"):
            # A preset of a plugin may know samples only.
            return self._augment(sample, rng) if parts is None else self._augment(sample, rng, parts)

    def _read(self, index: int) -> tuple[Sample, Parts | None]:
        """Returns a sample, and where the pixels of its image come from if its own are only of the same size."""
        with naming(f"Reading image {index + 1} of {len(self)}"):
            file = None if self._augment.reads_pixels else self._source.image_file(index)
            if file is None:
                return self._source[index], None
            parts = self._parts(index, file)
            undecoded = np.broadcast_to(np.uint8(0), (*parts.size, 3))
            with decoded_once({file: undecoded}):
                return self._source[index], parts

    def _parts(self, index: int, file: Path) -> Parts:
        number = int(np.searchsorted(self._ends, index, side="right"))
        cache = self._caches[number]
        if cache is None:
            return FileParts(file)
        return cache.parts(index - int(self._ends[number]) + self._source.counts[number], file)
