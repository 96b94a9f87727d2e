"""Reads data sets in COCO's ``instances`` format: boxes for detection, masks drawn from outlines for segmentation."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mbv2kit.data.cleaning import ObjectFilter
from mbv2kit.data.sources.base import SOURCES, Source, layout_error, missing_split
from mbv2kit.data.table import AnnotationTable, Outline, TableBuilder
from mbv2kit.errors import UserError
from mbv2kit.imaging.images import decode
from mbv2kit.structures import IGNORE, Boxes, Image, Sample, Task

_IMAGE_FOLDERS = ("images/{split}", "{split}", "images")


@SOURCES.register("coco", train_split="train2017", val_split="val2017")
class Coco(Source):
    """Detection and segmentation from the JSON format of COCO.

    Category ids may have gaps: class k is the k-th smallest of them. For segmentation, class 0 is the background and
    class k + 1 that category; if objects overlap, the smaller one is on top, and crowd regions are ignored.

    Args:
        task: ``detection`` or ``segmentation``.
        root: The data set's folder.
        split: Name that replaces ``{split}`` in the paths.
        annotations: Path of the JSON file below the root.
        skip_empty: Whether images without objects are left out instead of serving as negatives.

    Raises:
        UserError: The JSON file is missing or invalid, or the images are not in an expected folder.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"detection", "segmentation"})
    layout: ClassVar[str] = (
        "  ROOT/annotations/instances_{split}.json (or as dataset.annotations says)\n"
        "  ROOT/images/{split}/*.jpg (or ROOT/{split}/*.jpg or ROOT/images/*.jpg)"
    )

    def __init__(
        self,
        *,
        task: Task,
        root: Path,
        split: str,
        annotations: str = "annotations/instances_{split}.json",
        skip_empty: bool = False,
    ) -> None:
        self._task = task
        self._file = _find_annotations(root, split, annotations, self.layout)
        content = _read(self._file)
        names = _category_names(self._file, content["categories"])
        self.class_names = tuple(names.values())
        if task == "segmentation":
            self.class_names = ("background", *self.class_names)
            if len(self.class_names) > IGNORE:
                raise UserError(
                    f"{self._file}: {len(names)} categories are too many for masks of one byte; at most 254 fit."
                )
        self._fill(content, names, skip_empty)
        self._images = _find_images(root, split, self._table.name(0), self.layout)

    def _fill(self, content: dict[str, Any], names: dict[int, str], skip_empty: bool) -> None:
        images = _by_id(self._file, content["images"])
        records = _group(self._file, content["annotations"], images, names)
        # COCO has real objects that are thinner than a pixel, and its evaluation counts them.
        builder, keep = TableBuilder(), ObjectFilter(min_side=0)
        class_of = {category: index for index, category in enumerate(names)}
        sizes = []
        for image_id, image in images.items():
            name, height, width = image["file_name"], image["height"], image["width"]
            found = records.get(image_id, [])
            kept, boxes = keep(name, (height, width), found, [_box(self._file, record) for record in found])
            if skip_empty and not kept:
                continue
            labels = [class_of[record["category_id"]] for record in kept]
            crowd = [bool(record.get("iscrowd", 0)) for record in kept]
            outlines = [_outline(self._file, record, height, width) for record in kept if self._task == "segmentation"]
            builder.append(name, boxes, labels, crowd, outlines)
            sizes.append((height, width))
        if not sizes:
            raise UserError(f"{self._file}: it lists no image that can be used; expected images with objects.")
        self._table: AnnotationTable = builder.build()
        self._sizes = np.array(sizes, dtype=np.int32)
        self._report_dropped(keep.dropped)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        name = self._table.name(index)
        image = decode(self._images / name)
        self._check_size(index, image)
        labels, crowd = self._table.labels(index), self._table.crowd(index)
        if self._task == "segmentation":
            mask = draw_mask(self._table.outlines(index), labels + 1, crowd, *image.shape[:2])
            return Sample(image=image, image_id=name, mask=mask)
        return Sample(image=image, image_id=name, boxes=self._table.boxes(index), labels=labels, crowd=crowd)

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields sizes and boxes from the JSON file; no image is read."""
        return self._table.objects(self._sizes)

    def _check_size(self, index: int, image: Image) -> None:
        height, width = self._sizes[index]
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{self._images / self._table.name(index)}: the image is {image.shape[1]} x {image.shape[0]} "
                f"pixels, but {self._file.name} says {width} x {height}; use the image that was annotated."
            )


def draw_mask(
    outlines: Sequence[Outline], classes: NDArray[np.int64], crowd: NDArray[np.bool_], height: int, width: int
) -> NDArray[np.uint8]:
    """Draws objects into one class mask: first crowds, as 255, then objects from the largest to the smallest.

    Args:
        outlines: Outlines of N objects.
        classes: ``(N,)`` class of each object, 1..254.
        crowd: ``(N,)`` whether the object is a crowd region.
        height: Height of the mask in pixels.
        width: Width of the mask in pixels.

    Returns:
        ``(height, width)`` uint8; 0 outside all objects.
    """
    runs = [_run_lengths(outline, height, width) for outline in outlines]
    areas = np.array([coco_mask.area(run) for run in runs], dtype=np.int64)
    mask = np.zeros((height, width), dtype=np.uint8)
    for item in np.lexsort((-areas, ~crowd)):
        mask[coco_mask.decode(runs[item]).astype(bool)] = IGNORE if crowd[item] else classes[item]
    return mask


def _run_lengths(outline: Outline, height: int, width: int) -> Any:
    if outline.rle:
        return {"size": [height, width], "counts": outline.rle}
    rings = [ring.tolist() for ring in outline.rings]
    return coco_mask.merge(coco_mask.frPyObjects(rings, height, width))


def _find_annotations(root: Path, split: str, pattern: str, layout: str) -> Path:
    path = root / pattern.replace("{split}", split)
    if path.is_file():
        return path
    before, mark, after = pattern.partition("{split}")
    if mark and not Path(pattern).is_absolute():
        others = (other.relative_to(root).as_posix() for other in root.glob(pattern.replace(mark, "*")))
        found = sorted(other.removeprefix(before).removesuffix(after) for other in others)
        if found:
            raise missing_split(root, split, found)
    raise layout_error(path, "there is no such file", layout)


def _find_images(root: Path, split: str, first: str, layout: str) -> Path:
    folders = [(root / folder.replace("{split}", split)) for folder in _IMAGE_FOLDERS]
    for folder in folders:
        if (folder / first).is_file():
            return folder
    raise layout_error(root, f"the first image, {first}, is in none of the expected folders", layout)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: this is not JSON ({error}).") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: this is not a COCO instances file, because it has no list '{key}'.")
    return dict(content)


def _category_names(path: Path, categories: list[dict[str, Any]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in categories:
        _require(path, "category", category, ("id", "name"))
        if category["id"] in names or category["name"] in names.values():
            raise UserError(f"{path}: the category {category['id']} '{category['name']}' is listed twice.")
        names[category["id"]] = category["name"]
    if not names:
        raise UserError(f"{path}: 'categories' is empty; expected the classes of the data set.")
    return dict(sorted(names.items()))


def _by_id(path: Path, images: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for image in images:
        _require(path, "image", image, ("id", "file_name", "height", "width"))
        if image["id"] in found:
            raise UserError(f"{path}: the image id {image['id']} ({image['file_name']}) is listed twice.")
        if not all(isinstance(image[side], int) and image[side] > 0 for side in ("height", "width")):
            raise UserError(f"{path}: height and width of image {image['id']} must be pixels, got {str(image)[:100]}.")
        found[image["id"]] = image
    return found


def _group(
    path: Path, annotations: list[dict[str, Any]], images: dict[int, Any], categories: dict[int, str]
) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in annotations:
        _require(path, "annotation", record, ("id", "image_id", "category_id", "bbox"))
        if record["image_id"] not in images:
            raise UserError(f"{path}: annotation {record['id']} has image {record['image_id']}, which is not listed.")
        if record["category_id"] not in categories:
            raise UserError(
                f"{path}: annotation {record['id']} has category {record['category_id']}, which is not listed."
            )
        groups[record["image_id"]].append(record)
    return groups


def _require(path: Path, kind: str, record: Any, keys: Sequence[str]) -> None:
    for key in keys:
        if not isinstance(record, dict) or key not in record:
            raise UserError(f"{path}: this {kind} has no '{key}': {str(record)[:100]}.")


def _box(path: Path, record: dict[str, Any]) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(value) for value in record["bbox"])
    except (TypeError, ValueError):
        raise UserError(
            f"{path}: the bbox of annotation {record['id']} must be four numbers x, y, width, height, "
            f"got {record['bbox']}."
        ) from None
    return x, y, x + width, y + height


def _outline(path: Path, record: dict[str, Any], height: int, width: int) -> Outline:
    outline = record.get("segmentation")
    if isinstance(outline, dict) and outline.get("size") == [height, width] and "counts" in outline:
        counts = outline["counts"]
        if isinstance(counts, list) and sum(counts) == height * width:
            return Outline(rle=coco_mask.frPyObjects(outline, height, width)["counts"])
        if isinstance(counts, str):
            return Outline(rle=counts.encode())
    if isinstance(outline, list):
        # Two points have no area, and COCO's tools treat a list of four numbers as a box.
        rings = [np.array(ring, dtype=np.float64) for ring in outline if isinstance(ring, list) and len(ring) >= 6]
        if rings and all(len(ring) % 2 == 0 and math.isfinite(ring.sum()) for ring in rings):
            return Outline(rings=tuple(rings))
    raise UserError(
        f"{path}: annotation {record['id']} has no usable 'segmentation'; expected polygons of three points or more, "
        f"or run lengths of size [{height}, {width}]. For boxes alone, use task=detection."
    )
