"""Reads the index of shards, and checks everything in it before anything else is read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mbv2kit.data.sources.base import missing_split
from mbv2kit.data.sources.shards.members import Members
from mbv2kit.data.sources.shards.schema import ANNOTATED, DETECTION, FIELDS, FORMAT, IMAGE, METADATA
from mbv2kit.data.table import AnnotationTable, Ragged, Texts
from mbv2kit.errors import UserError, one_line
from mbv2kit.structures import IGNORE, TASKS, Task

_SHARD = re.compile(r"[\w-][\w.-]{0,200}\.tar", re.ASCII)
# Far beyond what a decoder takes, and below what overflows.
_LARGEST_FILE, _LARGEST_SHARD, _LONGEST_SIDE, _MOST_CLASSES = 2**31, 2**50, 2**20, 1_000_000
_MASK_CLASSES = IGNORE


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The ground truth of the images of a split for one task; what is not of the task is None.

    Attributes:
        rows: ``(N,)`` int64, the image of each entry: those that have ground truth for the task.
        labels: ``(N,)`` int64.
        table: Boxes, labels and crowds of each.
        annotated: ``(M, 7)`` float64 of each, box, area, class and crowd as COCO's protocol evaluates them.
        orders: ``(N,)`` int64, the place of each image in COCO's order; -1 for images without ``annotated``.
        masks: ``(N,)`` int64, the member that is the mask of each.
        mask_classes: The classes of each mask, -1 for 255.
        mask_pixels: The number of pixels of each of them.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    table: AnnotationTable | None = None
    annotated: Ragged[np.float64] | None = None
    orders: NDArray[np.int64] | None = None
    masks: NDArray[np.int64] | None = None
    mask_classes: Ragged[np.int64] | None = None
    mask_pixels: Ragged[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """A split of an index, with the ground truth of one task.

    Attributes:
        class_names: Names of the task's classes.
        names: The ``image_id`` of each image.
        keys: The key of each image in its tar.
        suffixes: The suffix of the file of each.
        sizes: ``(N, 2)`` int32, height and width of each upright image.
        shards: Names of the tars.
        members: All files of the split: of each image, then the masks.
        version: Differs for other files.
        truth: The ground truth.
    """

    class_names: tuple[str, ...]
    names: Texts
    keys: Texts
    suffixes: Texts
    sizes: NDArray[np.int32]
    shards: tuple[str, ...]
    members: Members
    version: str
    truth: GroundTruth


def read_index(content: bytes, place: str, task: Task, split: str) -> Index:
    """Reads a split of an index.

    Args:
        content: The bytes of the file.
        place: What messages call it.
        task: The task whose ground truth is needed.
        split: The split.

    Raises:
        UserError: It is no index, has no such split or task, or a value is wrong.
    """
    return _Reader(place, split).read(content, task)


class _Reader:
    def __init__(self, place: str, split: str) -> None:
        self._place = place
        self._split = split

    def read(self, content: bytes, task: Task) -> Index:
        try:
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            schema = file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"{self._place}: this is no Parquet file ({one_line(error)}).") from None
        class_names = self._class_names(schema.metadata or {}, task)
        for field in (*IMAGE, *FIELDS[task], *FIELDS["segmentation"]):
            found = schema.field(field.name).type if schema.names.count(field.name) == 1 else "missing"
            if found != field.type:
                self._wrong(f"the column '{field.name}' is {found}, expected {field.type}")
        names = list(dict.fromkeys(field.name for field in (*IMAGE, *FIELDS[task], *FIELDS["segmentation"])))
        try:
            table = file.read(columns=names, use_threads=False)
            table.validate(full=True)
            table = table.filter(pc.equal(table["split"], self._split)).combine_chunks()
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise UserError(f"{self._place}: the file is damaged ({one_line(error)}).") from None
        return self._index(table, task, class_names)

    def _wrong(self, what: str) -> None:
        raise UserError(f"{self._place}: {what}; write the shards again with `mbv2kit make-shards`.")

    def _class_names(self, metadata: Mapping[bytes, bytes], task: Task) -> tuple[str, ...]:
        try:
            notes = json.loads(metadata[METADATA])
            version, splits = notes["format"], notes["class_names"]
            known = {
                split: {each: tuple(names[each]) for each in TASKS if each in names} for split, names in splits.items()
            }
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{self._place}: this is no index of shards, since its metadata lacks {METADATA.decode()}; "
                "`mbv2kit make-shards` writes one."
            ) from None
        if version != FORMAT:
            self._wrong(f"its format is {str(version)[:20]}, and this version of mbv2kit reads {FORMAT}")
        if self._split not in known:
            raise missing_split(self._place, self._split, list(known))
        if task not in known[self._split]:
            there = " and ".join(known[self._split]) or "no task"
            raise UserError(f"{self._place}: the split '{self._split}' has ground truth for {there}, not for {task}.")
        names = known[self._split][task]
        texts = all(isinstance(name, str) and name.strip() for name in names)
        if not names or len(names) > _MOST_CLASSES or not texts or len(set(names)) < len(names):
            self._wrong(f"the class names for {task} must be different texts")
        return names

    def _index(self, table: pa.Table, task: Task, class_names: tuple[str, ...]) -> Index:
        if not len(table):
            self._wrong(f"it lists no image of the split '{self._split}'")
        for field in IMAGE:
            if table[field.name].null_count:
                self._wrong(f"the column '{field.name}' has gaps")
        keys = table["key"].to_pylist()
        sizes = np.stack([self._numbers(table, name) for name in ("height", "width")], axis=1)
        self._check(keys, (sizes >= 1) & (sizes <= _LONGEST_SIDE), "has an impossible size")
        shards = pc.dictionary_encode(table["shard"]).combine_chunks()
        shard_names = tuple(shards.dictionary.to_pylist())
        for name in shard_names:
            if not _SHARD.fullmatch(name):
                self._wrong(f"the shard '{name[:100]}' must be the name of a tar next to the index")
        numbers = shards.indices.to_numpy().astype(np.int64)
        with_mask = np.flatnonzero(pc.is_valid(table["mask_offset"]).combine_chunks().to_numpy(zero_copy_only=False))
        members = self._members(table, numbers, with_mask, keys)
        version = sha256(members.digests.tobytes()).hexdigest()[:32]
        return Index(
            class_names=class_names,
            names=Texts(table["image_id"].to_pylist()),
            keys=Texts(keys),
            suffixes=Texts(table["suffix"].to_pylist()),
            sizes=sizes.astype(np.int32),
            shards=shard_names,
            members=members,
            version=version,
            truth=self._truth(table, task, keys, sizes, len(class_names), with_mask),
        )

    def _members(
        self, table: pa.Table, shards: NDArray[np.int64], with_mask: NDArray[np.int64], keys: Sequence[str]
    ) -> Members:
        masks = table.take(with_mask)
        parts = []
        for rows, prefix in ((table, ""), (masks, "mask_")):
            offsets, sizes = (self._numbers(rows, prefix + name) for name in ("offset", "size"))
            names = keys if rows is table else [keys[row] for row in with_mask.tolist()]
            fits = (offsets >= 0) & (sizes >= 1) & (sizes <= _LARGEST_FILE) & (offsets <= _LARGEST_SHARD)
            self._check(names, fits, "has an impossible place in its shard")
            digests = self._column(rows, f"{prefix}sha256")
            joined = b"".join(digests.to_pylist())
            parts.append((offsets, sizes, np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)))
        offsets, sizes, digests = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Members(np.concatenate([shards, shards[with_mask]]), offsets, sizes, digests)

    def _truth(
        self,
        table: pa.Table,
        task: Task,
        keys: Sequence[str],
        sizes: NDArray[np.int64],
        classes: int,
        with_mask: NDArray[np.int64],
    ) -> GroundTruth:
        rows = np.flatnonzero(pc.is_valid(table[FIELDS[task][0].name]).combine_chunks().to_numpy(zero_copy_only=False))
        if not len(rows):
            self._wrong(f"no image of the split '{self._split}' has ground truth for {task}")
        own, keys, sizes = table.take(rows), [keys[row] for row in rows.tolist()], sizes[rows]
        if task == "classification":
            labels = self._numbers(own, "label")
            self._check(keys, (labels >= 0) & (labels < classes), f"has a label that is none of {classes} classes")
            return GroundTruth(rows, labels=labels)
        if task == "segmentation":
            names, pixels = self._lists(own, "mask_classes", np.int64), self._lists(own, "mask_pixels", np.int64)
            known = (names[0] == IGNORE) | ((names[0] >= 0) & (names[0] < min(classes, _MASK_CLASSES)))
            areas = sizes.prod(axis=1)
            of_row = np.repeat(np.arange(len(rows)), pixels[1])
            fits = (pixels[0] >= 0) & (pixels[0] <= areas[of_row])
            if not np.array_equal(names[1], pixels[1]) or (names[1] > 256).any() or not known.all() or not fits.all():
                self._wrong("the classes of a mask, or the numbers of their pixels, are impossible")
            sums = np.bincount(of_row, weights=pixels[0], minlength=len(rows))
            self._check(keys, sums == areas, "has a mask with another number of pixels than the image")
            ids = np.where(names[0] == IGNORE, -1, names[0])
            return GroundTruth(
                rows,
                masks=len(table) + np.searchsorted(with_mask, rows),
                mask_classes=Ragged(ids, names[1]),
                mask_pixels=Ragged(*pixels),
            )
        return self._boxes(own, rows, keys, sizes, classes)

    def _boxes(
        self, own: pa.Table, rows: NDArray[np.int64], keys: Sequence[str], sizes: NDArray[np.int64], classes: int
    ) -> GroundTruth:
        boxes, labels, crowd = (
            self._lists(own, field.name, kind)
            for field, kind in zip(DETECTION, (np.float32, np.int64, np.bool_), strict=True)
        )
        counts = labels[1]
        if not np.array_equal(boxes[1], 4 * counts) or not np.array_equal(crowd[1], counts):
            self._wrong("an image has other numbers of boxes, labels and crowds")
        corners, limits = boxes[0].reshape(-1, 4), np.repeat(sizes[:, ::-1], counts, axis=0)
        fits = np.isfinite(corners).all(axis=1)
        fits &= (corners[:, :2] >= 0).all(axis=1) & (corners[:, 2:] <= limits).all(axis=1)
        fits &= (corners[:, :2] <= corners[:, 2:]).all(axis=1) & (labels[0] >= 0) & (labels[0] < classes)
        self._check(np.repeat(keys, counts), fits, "has a box outside of its image, or of an unknown class")
        table = AnnotationTable(Texts(keys), counts.tolist(), corners, labels[0], crowd[0], [])
        annotated, orders = self._annotated(own, keys, classes)
        return GroundTruth(rows, table=table, annotated=annotated, orders=orders)

    def _annotated(
        self, own: pa.Table, keys: Sequence[str], classes: int
    ) -> tuple[Ragged[np.float64], NDArray[np.int64]]:
        boxes, labels, crowd, areas = (self._lists(own, field.name, np.float64, gaps=True) for field in ANNOTATED[:4])
        counts = labels[1]
        lengths = ((boxes[1], 4 * counts), (crowd[1], counts), (areas[1], counts))
        if not all(np.array_equal(found, wanted) for found, wanted in lengths):
            self._wrong("an image has other numbers of annotated boxes, areas, labels and crowds")
        values = np.column_stack([boxes[0].reshape(-1, 4), areas[0], labels[0], crowd[0]])
        known = np.isfinite(values).all(axis=1) & (labels[0] >= 0) & (labels[0] < classes)
        self._check(np.repeat(keys, counts), known, "has an annotated box that is impossible")
        orders = pc.fill_null(own[ANNOTATED[4].name], -1).combine_chunks().to_numpy().astype(np.int64)
        return Ragged(values, counts), orders

    def _column(self, table: pa.Table, name: str) -> pa.Array:
        column = table[name]
        if column.null_count:
            self._wrong(f"the column '{name}' has gaps")
        return column

    def _numbers(self, table: pa.Table, name: str) -> NDArray[np.int64]:
        return np.asarray(self._column(table, name).to_numpy(), dtype=np.int64)

    def _lists(
        self, table: pa.Table, name: str, kind: type[Any], *, gaps: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Returns the values of all lists of a column, and the length of each."""
        column = table[name] if gaps else self._column(table, name)
        values = pc.list_flatten(column)
        if values.null_count:
            self._wrong(f"the column '{name}' has gaps")
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        return values.to_numpy().astype(kind), lengths.to_numpy().astype(np.int64)

    def _check(self, keys: Sequence[str] | NDArray[np.str_], fits: NDArray[np.bool_], what: str) -> None:
        if not fits.all():
            first = int(np.argwhere(~fits)[0, 0])
            self._wrong(f"the image of key {str(keys[first])[:100]} {what}")
