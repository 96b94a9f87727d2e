"""Reads the annotations of a COCO file, and checks every one before the first image is used."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from mbv2kit.data.sources.coco.outlines import BrokenOutlineError, read_outline
from mbv2kit.data.sources.coco.pixels import without_pixels
from mbv2kit.data.sources.coco.reading import CocoImage, CocoObject
from mbv2kit.data.sources.coco.values import Id, read_flag, read_id, read_number, require
from mbv2kit.data.table import Outline
from mbv2kit.errors import UserError, first_few
from mbv2kit.structures import Task

_log = logging.getLogger(__name__)


def read_annotations(
    path: Path, task: Task, records: list[Any], images: dict[Id, CocoImage], names: dict[Id, str]
) -> None:
    """Adds the objects of a file to its images, and empties ``records``.

    Args:
        path: The file.
        task: ``detection`` needs boxes, ``segmentation`` outlines.
        records: Its annotations.
        images: Its images, whose sizes are known, by their ids.
        names: Name of each category.

    Raises:
        UserError: An annotation is broken, or refers to something that is not there; or segmentation finds no outline.
    """
    reader = _Reader(path, task, images, names)
    for number in range(len(records)):
        reader.read(number, records[number])
        # What is read takes less memory than the JSON, which for COCO itself is gigabytes.
        records[number] = None
    reader.report()


class _Reader:
    """Turns annotations into objects of their images, and counts what is odd but usable."""

    def __init__(self, path: Path, task: Task, images: dict[Id, CocoImage], names: dict[Id, str]) -> None:
        self._path = path
        self._task = task
        self._images = images
        self._names = names
        self._ids: set[Id] = set()
        self._repeated: list[str] = []
        self._without_outline: list[str] = []
        self._without_area: list[str] = []
        self._objects = 0

    def read(self, number: int, record: Any) -> None:
        require(self._path, "annotation", record, ("image_id", "category_id"))
        label = self._note_id(number, record)
        image = self._images.get(read_id(record["image_id"]))  # type: ignore[arg-type]
        if image is None:
            raise UserError(f"{self._path}: {label} has image {str(record['image_id'])[:100]}, which is not listed.")
        category = read_id(record["category_id"])
        if category not in self._names:
            raise UserError(
                f"{self._path}: {label} has category {str(record['category_id'])[:100]}, which is not listed."
            )
        assert category is not None
        try:
            crowd = read_flag(record.get("iscrowd"))
        except ValueError:
            raise UserError(
                f"{self._path}: 'iscrowd' of {label} must be 0 or 1, got {str(record['iscrowd'])[:100]}."
            ) from None
        self._objects += 1
        box = outline = None
        if self._task == "segmentation":
            outline = self._outline(label, record, image)
            if outline is None:
                self._without_outline.append(label)
                return
        else:
            box = self._box(label, record)
        image.objects.append(CocoObject(category, box, self._area(label, record), crowd, outline))

    def report(self) -> None:
        """Logs the odd ones, a line for each kind, and leaves out objects that would draw nothing.

        Raises:
            UserError: No annotation has an outline that covers pixels, which segmentation needs.
        """
        if self._without_outline and len(self._without_outline) == self._objects:
            raise UserError(
                f"{self._path}: {self._without_outline[0]} has no usable 'segmentation', nor has any other; expected "
                "polygons of three points or more, or run lengths. For boxes alone, use task=detection."
            )
        for labels, what in (
            (self._repeated, "have an id that another one has; all are kept"),
            (self._without_outline, "have no outline and are missing in the masks"),
            (self._without_area, "have an 'area' that is no number from 0 up; that of the box is used"),
        ):
            if labels:
                _log.warning("%s: %d annotations %s: %s", self._path.name, len(labels), what, first_few(labels))
        if self._task == "segmentation":
            self._leave_out_pixelless()

    def _leave_out_pixelless(self) -> None:
        items = [
            (image, item, item.outline)
            for image in self._images.values()
            for item in image.objects
            if item.outline is not None
        ]
        sizes = np.array([image.size for image, _, _ in items], dtype=np.int64).reshape(-1, 2)
        found = [items[index] for index in without_pixels([outline for _, _, outline in items], sizes)]
        if not found:
            return
        names = list(dict.fromkeys(image.name for image, _, _ in found))
        if len(found) == len(items):
            raise UserError(
                f"{self._path}: no 'segmentation' covers more than a pixel of its image, such as those of "
                f"{first_few(names)}; expected coordinates in pixels, not as fractions of the image."
            )
        dropped = {id(item) for _, item, _ in found}
        for image in self._images.values():
            image.objects = [item for item in image.objects if id(item) not in dropped]
        _log.info(
            "Dropped %d outlines of %s that cover no more than a pixel in %d images: %s",
            *(len(found), self._path.name, len(names), first_few(names)),
        )

    def _note_id(self, number: int, record: dict[str, Any]) -> str:
        found = read_id(record.get("id"))
        if found is None:
            return f"annotation number {number + 1}"
        label = f"annotation {found}"
        if found in self._ids:
            self._repeated.append(label)
        self._ids.add(found)
        return label

    def _outline(self, label: str, record: dict[str, Any], image: CocoImage) -> Outline | None:
        assert image.size is not None
        height, width = image.size
        try:
            return read_outline(record.get("segmentation"), height, width)
        except BrokenOutlineError as error:
            raise UserError(
                f"{self._path}: {label} has no usable 'segmentation', because {error}; expected polygons of three "
                f"points or more, or run lengths of size [{height}, {width}]. For boxes alone, use task=detection."
            ) from None

    def _box(self, label: str, record: dict[str, Any]) -> tuple[float, ...]:
        if "bbox" not in record:
            raise UserError(f"{self._path}: {label} has no 'bbox', which detection needs: {str(record)[:100]}.")
        try:
            x, y, width, height = (read_number(value) for value in record["bbox"])
        except (TypeError, ValueError):
            raise UserError(
                f"{self._path}: the bbox of {label} must be four numbers x, y, width, height, "
                f"got {str(record['bbox'])[:100]}."
            ) from None
        return x, y, width, height

    def _area(self, label: str, record: dict[str, Any]) -> float:
        if record.get("area") is None:
            return math.nan
        try:
            area = read_number(record["area"])
        except (TypeError, ValueError):
            area = math.nan
        if math.isfinite(area) and area >= 0:
            return area
        self._without_area.append(label)
        return math.nan
