"""The source of a data set in COCO's format."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mbv2kit.data.cleaning import ObjectFilter
from mbv2kit.data.inside import PathOptions
from mbv2kit.data.sources.base import SOURCES, EncodedImage, Source
from mbv2kit.data.sources.coco.annotations import read_annotations
from mbv2kit.data.sources.coco.outlines import draw_mask
from mbv2kit.data.sources.coco.places import find_annotations, find_images
from mbv2kit.data.sources.coco.reading import CocoImage, CocoObject, load, read_classes, read_images
from mbv2kit.data.sources.coco.sizes import check_sizes
from mbv2kit.data.table import AnnotationTable, Ragged, TableBuilder
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.imaging.orientation import UPRIGHT, turn, turn_boxes
from mbv2kit.schema.rules import Location
from mbv2kit.structures import IGNORE, Annotated, Boxes, Sample, Task


@SOURCES.register("coco", train_split="train2017", val_split="val2017")
class Coco(Source):
    """Detection and segmentation from the JSON format of COCO.

    Category ids may have gaps: class k is the k-th smallest of them. A category that no annotation has and that is the
    ``supercategory`` of others is no class. For segmentation, class 0 is the background and class k + 1 that category;
    if objects overlap, the smaller one is on top, and crowd regions are ignored.

    Args:
        task: ``detection`` or ``segmentation``.
        root: The data set's folder.
        split: Name that replaces ``{split}`` in the paths.
        annotations: Path of the JSON file below the root.
        skip_empty: Whether images without objects are left out instead of serving as negatives.
        paths: Whether the names of images and symbolic links may lead out of the root.

    Raises:
        UserError: The JSON file is missing or invalid, or an image is not in the folder that it is expected in, cannot
            be read or has another size.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"detection", "segmentation"})
    layout: ClassVar[str] = (
        "  ROOT/annotations/instances_{split}.json (or as dataset.annotations says)\n"
        "  ROOT/images/{split}/*.jpg (or ROOT/{split}/*.jpg, ROOT/images/*.jpg or ROOT/*.jpg)"
    )

    knows_classes = True

    def __init__(
        self,
        *,
        task: Task,
        root: Path,
        split: str,
        annotations: Location = "annotations/instances_{split}.json",
        skip_empty: bool = False,
        paths: PathOptions = PathOptions(),
    ) -> None:
        self._task = task
        self._file = find_annotations(root, split, annotations, paths, self.layout)
        content = load(self._file, task)
        images = read_images(self._file, content["images"])
        names = read_classes(self._file, content["categories"], content["annotations"])
        self._images = find_images(
            root, split, self._file, [image.name for image in images.values()], paths, self.layout
        )
        check_sizes(self._file, self._images, list(images.values()))
        read_annotations(self._file, task, content["annotations"], images, names)
        self.class_names = tuple(names.values())
        if task == "segmentation":
            self.class_names = ("background", *self.class_names)
            if len(self.class_names) > IGNORE:
                raise UserError(
                    f"{self._file}: {len(names)} categories are too many for masks of one byte; at most 254 fit."
                )
        self._fill(list(images.values()), {category: index for index, category in enumerate(names)}, skip_empty)

    def _fill(self, images: Sequence[CocoImage], class_of: dict[int | str, int], skip_empty: bool) -> None:
        # COCO has real objects that are thinner than a pixel, and its evaluation counts them.
        builder, keep = TableBuilder(), ObjectFilter(min_side=0, file=self._file.name)
        used, written = [], []
        for image in images:
            kept, boxes = image.objects, np.zeros((len(image.objects), 4), dtype=np.float32)
            if self._task == "detection":
                assert image.size is not None
                kept, boxes = keep(image.name, image.size, kept, [_corners(item) for item in kept])
            if skip_empty and not kept:
                continue
            labels = [class_of[item.category] for item in kept]
            outlines = [item.outline for item in kept if item.outline is not None]
            builder.append(image.name, boxes, labels, [item.crowd for item in kept], outlines)
            used.append(image)
            written.append(_written(image, class_of))
        if not used:
            raise UserError(f"{self._file}: it lists no image that can be used; expected images with objects.")
        self._table: AnnotationTable = builder.build()
        self._sizes = np.array([image.size for image in used], dtype=np.int32)
        self._orientations = np.array([image.orientation for image in used], dtype=np.uint8)
        self._orders = np.array([image.order for image in used], dtype=np.int64)
        self._written = Ragged(np.concatenate(written), map(len, written))
        self._report_boxes(keep)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        name = self._table.name(index)
        image = decode(self._images / name)
        orientation = int(self._orientations[index])
        size: tuple[int, int] = (int(self._sizes[index, 0]), int(self._sizes[index, 1]))
        labels, crowd = self._table.labels(index), self._table.crowd(index)
        if self._task == "segmentation":
            mask = turn(draw_mask(self._table.outlines(index), labels + 1, crowd, *size), orientation)
            return Sample(image=image, image_id=name, mask=mask)
        return Sample(
            image=image,
            image_id=name,
            boxes=turn_boxes(self._table.boxes(index), size, orientation),
            labels=labels,
            crowd=crowd,
            annotated=self._annotated(index, size, orientation),
        )

    def encoded_image(self, index: int) -> EncodedImage:
        """Returns the file of image ``index``."""
        return EncodedImage.read(self._images / self._table.name(index))

    def image_names(self) -> Iterable[str]:
        """Returns the file names of the images; no image is read."""
        return self._table.names

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the class of each object, and the background of a mask; no image is read."""
        ids = np.where(self._table.crowd(index), -1, self._table.labels(index))
        return np.append(np.where(ids < 0, ids, ids + 1), 0) if self._task == "segmentation" else ids

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields sizes and boxes from the JSON file; no image is read."""
        return self._table.objects(self._sizes)

    def _annotated(self, index: int, size: tuple[int, int], orientation: int) -> Annotated:
        rows = self._written[index]
        boxes = rows[:, :4].copy()
        if orientation != UPRIGHT:
            corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            corners = turn_boxes(corners, size, orientation)
            boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return Annotated(
            boxes=boxes,
            areas=rows[:, 4].copy(),
            class_ids=rows[:, 5].astype(np.int64),
            crowd=rows[:, 6] > 0,
            order=int(self._orders[index]),
        )


def _corners(item: CocoObject) -> tuple[float, float, float, float]:
    assert item.box is not None
    x, y, width, height = item.box
    return x, y, x + width, y + height


def _written(image: CocoImage, class_of: dict[int | str, int]) -> np.ndarray:
    """Returns what evaluation needs of each object: box, area, class, crowd; ``(M, 7)`` float64."""
    rows = [
        (*item.box, _area(item), class_of[item.category], item.crowd)
        for item in image.objects
        if item.box is not None and all(map(math.isfinite, item.box))
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _area(item: CocoObject) -> float:
    assert item.box is not None
    return item.box[2] * item.box[3] if math.isnan(item.area) else item.area
