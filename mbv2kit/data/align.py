"""Maps the labels of a data set to the class ids of a model that lists the same classes differently."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError, first_few
from mbv2kit.structures import IGNORE, Boxes, Sample

_IMAGENET_CLASSES = 1000
_WNID = re.compile(r"n\d{8}")
# Lists of ImageNet's classes differ in two to four names; a list in another order has almost no name in its place.
_SAME_SHARE = 0.99


class AlignedSource(Source):
    """A source with the class ids of another list of classes.

    Args:
        source: Source of the samples.
        class_names: The model's classes, in the model's order.
        ids: The model's class id for each class of the source.
    """

    def __init__(self, source: Source, class_names: Sequence[str], ids: Sequence[int]) -> None:
        self.class_names = tuple(class_names)
        self.dropped_boxes = source.dropped_boxes
        self._source = source
        self._ids = np.array(ids, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        sample = self._source[index]
        if sample.label is not None:
            sample = replace(sample, label=int(self._ids[sample.label]))
        if sample.labels is not None:
            sample = replace(sample, labels=self._ids[sample.labels])
        if sample.mask is not None:
            table = np.full(256, IGNORE, dtype=np.uint8)
            table[: len(self._ids)] = self._ids
            sample = replace(sample, mask=table[sample.mask])
        return sample

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields the sizes and boxes of the source, which have no labels; it may know them without reading images."""
        return self._source.objects()


def align_classes(source: Source, class_names: Sequence[str]) -> Source:
    """Returns the source with the class ids and class names of a model.

    Lists with other names for the same classes, as there are for ImageNet, count as equal.

    Args:
        source: Source of the samples.
        class_names: The model's classes, in the model's order.

    Raises:
        UserError: The source has classes that the model does not know.
    """
    if tuple(class_names) == source.class_names:
        return source
    if _same_list(source.class_names, class_names):
        return AlignedSource(source, class_names, range(len(class_names)))
    unknown = [name for name in source.class_names if name not in class_names]
    if unknown:
        raise UserError(
            f"The data set has classes that the model does not know: {first_few(unknown)}. The model knows "
            f"{first_few(class_names)}; evaluate on its own classes, or train on this data set."
        )
    return AlignedSource(source, class_names, [list(class_names).index(name) for name in source.class_names])


def _same_list(names: Sequence[str], others: Sequence[str]) -> bool:
    """Returns whether two lists hold the same classes in the same order, possibly by other names."""
    if len(names) != len(others):
        return False
    if (
        len(names) == _IMAGENET_CLASSES
        and all(_WNID.fullmatch(name) for name in names)
        and sorted(names) == list(names)
    ):
        return True
    same = sum(_plain(name) == _plain(other) for name, other in zip(names, others, strict=True))
    return same >= _SAME_SHARE * len(names)


def _plain(name: str) -> str:
    """Removes synonyms, a note in parentheses, underscores and capitals."""
    return name.partition(",")[0].partition(" (")[0].replace("_", " ").strip().lower()
