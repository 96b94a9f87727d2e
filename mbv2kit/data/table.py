"""Stores the annotations of a whole data set in a few flat arrays.

A worker process that reads a Python object changes its reference count and so copies its page of memory: with lists of
dictionaries, each worker ends up with a copy of everything. Arrays stay shared.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbv2kit.structures import Boxes

S = TypeVar("S", bound=np.generic)


def _offsets(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, dtype=np.int64))]).astype(np.int64)


class Ragged(Generic[S]):
    """Rows of unequal length, stored end to end in one array."""

    def __init__(self, values: NDArray[S], lengths: Iterable[int]) -> None:
        self._values = values
        self._offsets = _offsets(lengths)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> NDArray[S]:
        return self._values[self._offsets[index] : self._offsets[index + 1]]


def _ragged_bytes(rows: Sequence[bytes]) -> Ragged[np.uint8]:
    return Ragged(np.frombuffer(b"".join(rows), dtype=np.uint8), map(len, rows))


class Texts(Sequence[str]):
    """Many short texts, such as file names, in one byte buffer."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._rows = _ragged_bytes([os.fsencode(text) for text in texts])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside {len(self)} texts")
        return os.fsdecode(self._rows[index % len(self)].tobytes())


@dataclass(frozen=True, slots=True)
class Outline:
    """The pixels of one object in the format of COCO: polygons, or run lengths if ``rle`` is not empty.

    Attributes:
        rings: Polygons ``x1, y1, x2, y2, ...`` in pixels; float64, to fill exactly the pixels that COCO's tools fill.
        rle: Compressed run lengths of the whole image.
    """

    rings: tuple[NDArray[np.float64], ...] = ()
    rle: bytes = b""


class AnnotationTable:
    """Names, boxes and outlines of N images, made by :class:`TableBuilder`; methods return copies.

    Attributes:
        names: Name of each image.
    """

    def __init__(
        self,
        names: Texts,
        counts: Sequence[int],
        boxes: Boxes,
        labels: NDArray[np.int64],
        crowd: NDArray[np.bool_],
        outlines: Sequence[Outline],
    ) -> None:
        self.names = names
        self._objects = _offsets(counts)
        self._boxes = boxes
        self._labels = labels
        self._crowd = crowd
        rings = [ring for outline in outlines for ring in outline.rings]
        self._rings = Ragged(np.concatenate([np.empty(0, np.float64), *rings]), map(len, rings))
        self._ring_offsets = _offsets(len(outline.rings) for outline in outlines)
        self._rles = _ragged_bytes([outline.rle for outline in outlines])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Returns the name of image ``index``."""
        return self.names[index]

    def boxes(self, index: int) -> Boxes:
        """Returns the ``(n, 4)`` boxes of image ``index``."""
        return self._boxes[self._span(index)].copy()

    def labels(self, index: int) -> NDArray[np.int64]:
        """Returns the ``(n,)`` classes of image ``index``."""
        return self._labels[self._span(index)].copy()

    def crowd(self, index: int) -> NDArray[np.bool_]:
        """Returns the ``(n,)`` crowd flags of image ``index``."""
        return self._crowd[self._span(index)].copy()

    def objects(self, sizes: NDArray[np.int32]) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields the size of each image, a row of ``sizes``, and its ``(n, 4)`` boxes without crowds."""
        for index, (height, width) in enumerate(sizes.tolist()):
            yield (height, width), self.boxes(index)[~self.crowd(index)]

    def outlines(self, index: int) -> list[Outline]:
        """Returns the outlines of image ``index``, one per object, or none if the table has none."""
        span = self._span(index)
        return [self._outline(item) for item in range(span.start, min(span.stop, len(self._rles)))]

    def _outline(self, item: int) -> Outline:
        first, last = self._ring_offsets[item : item + 2]
        return Outline(tuple(self._rings[ring].copy() for ring in range(first, last)), self._rles[item].tobytes())

    def _span(self, index: int) -> slice:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside {len(self)} images")
        return slice(int(self._objects[index]), int(self._objects[index + 1]))


class TableBuilder:
    """Collects images one by one; :meth:`build` stores them in flat arrays."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._boxes: list[Boxes] = []
        self._labels: list[NDArray[np.int64]] = []
        self._crowd: list[NDArray[np.bool_]] = []
        self._outlines: list[Outline] = []

    def append(
        self,
        name: str,
        boxes: ArrayLike,
        labels: ArrayLike = (),
        crowd: ArrayLike = (),
        outlines: Sequence[Outline] = (),
    ) -> None:
        """Adds an image with its ``(n, 4)`` boxes, ``(n,)`` labels and crowd flags, and no outlines or n."""
        box_rows = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
        label_row = np.asarray(labels, dtype=np.int64)
        crowd_row = np.asarray(crowd, dtype=np.bool_)
        count = len(box_rows)
        if not count == len(label_row) == len(crowd_row) or len(outlines) not in (0, count):
            raise ValueError(
                f"{name}: {count} boxes, {len(label_row)} labels, {len(crowd_row)} flags and {len(outlines)} outlines"
            )
        self._names.append(name)
        self._boxes.append(box_rows)
        self._labels.append(label_row)
        self._crowd.append(crowd_row)
        self._outlines.extend(outlines)

    def build(self) -> AnnotationTable:
        """Returns the table of all images added."""
        counts = [len(boxes) for boxes in self._boxes]
        if len(self._outlines) not in (0, sum(counts)):
            raise ValueError(f"{len(self._outlines)} outlines for {sum(counts)} objects; all or none must have one")
        return AnnotationTable(
            Texts(self._names),
            counts,
            np.concatenate([np.empty((0, 4), np.float32), *self._boxes]),
            np.concatenate([np.empty(0, np.int64), *self._labels]),
            np.concatenate([np.empty(0, np.bool_), *self._crowd]),
            self._outlines,
        )
