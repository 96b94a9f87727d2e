"""Reads the parts of a COCO file: the JSON, its images and its categories."""

import json
import logging
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mbv2kit.data.sources.coco.outlines import compact
from mbv2kit.data.sources.coco.values import Id, is_path, is_unicode, order_of_ids, read_id, read_number, require
from mbv2kit.data.table import Outline
from mbv2kit.errors import UserError, first_few, one_line
from mbv2kit.imaging.orientation import UPRIGHT
from mbv2kit.structures import Task

_log = logging.getLogger(__name__)

# COCO's run lengths count pixels in 32 bits.
_MOST_PIXELS = 2**31


@dataclass(slots=True)
class CocoObject:
    """An annotation.

    Attributes:
        category: Id of its category.
        box: ``x, y, width, height`` as in the file; None for segmentation.
        area: Its area; NaN if the file gives none.
        crowd: Whether it is a crowd region.
        outline: Its outline; None for detection.
    """

    category: Id
    box: tuple[float, ...] | None
    area: float
    crowd: bool
    outline: Outline | None


@dataclass(slots=True)
class CocoImage:
    """An image of the file.

    Attributes:
        name: Its path, with slashes.
        size: Height and width in pixels; None if the file does not know them.
        order: Its position in the order of the ids.
        orientation: What turns its annotations upright, as :mod:`mbv2kit.imaging.orientation` counts.
        objects: Its objects, in the order of the file.
    """

    name: str
    size: tuple[int, int] | None
    order: int = 0
    orientation: int = UPRIGHT
    objects: list[CocoObject] = field(default_factory=list)


def load(path: Path, task: Task) -> dict[str, list[Any]]:
    """Reads the JSON, without outlines unless the task needs them.

    Raises:
        UserError: It cannot be read, or has no list of images, annotations or categories.
    """

    def shrink(entry: dict[str, Any]) -> dict[str, Any]:
        if "segmentation" in entry:
            entry["segmentation"] = compact(entry["segmentation"]) if task == "segmentation" else None
        return entry

    try:
        content = json.loads(path.read_bytes(), object_hook=shrink)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: this is not JSON ({one_line(error)}).") from None
    except OSError as error:
        raise UserError(f"{path}: the file could not be read ({one_line(error)}).") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{path}: this is not a COCO instances file, because it has no list '{key}'.")
    return dict(content)


def read_images(path: Path, records: list[Any]) -> dict[Id, CocoImage]:
    """Returns the images by their ids, in the order of the file, without objects.

    Raises:
        UserError: An entry lacks something, is broken or twice there.
    """
    images: dict[Id, CocoImage] = {}
    # As pycocotools sorts them, which compares texts as texts.
    written: dict[Id, Any] = {}
    for record in records:
        require(path, "image", record, ("id", "file_name"))
        name, number = record["file_name"], read_id(record["id"])
        if number is None:
            raise UserError(f"{path}: the id of an image must be a number or a text: {str(record)[:100]}.")
        if not isinstance(name, str) or not name.strip() or not is_path(name):
            raise UserError(f"{path}: the file_name of image {number} must be a path, got {str(name)[:100]!r}.")
        if number in images:
            raise UserError(f"{path}: the image id {number} ({name}) is listed twice.")
        images[number] = CocoImage(_with_slashes(name), _read_size(path, number, record))
        written[number] = (isinstance(record["id"], str), record["id"])
    for order, number in enumerate(sorted(images, key=written.__getitem__)):
        images[number].order = order
    twice = [name for name, count in Counter(image.name for image in images.values()).items() if count > 1]
    if twice:
        _log.warning(
            "%s: several images have one file, and each lacks the objects of the others: %s",
            path.name,
            first_few(twice),
        )
    return images


def _with_slashes(name: str) -> str:
    """Returns a path that may have been written on Windows as one with slashes, without ``./`` in front."""
    return str(PurePosixPath(name.replace("\\", "/")))


def _read_size(path: Path, number: Id, record: dict[str, Any]) -> tuple[int, int] | None:
    found = [record.get(side) for side in ("height", "width")]
    if all(side in (None, 0, "", "0") for side in found):
        return None
    try:
        height, width = (read_number(side) for side in found)
    except (TypeError, ValueError):
        height = width = math.nan
    whole = all(math.isfinite(side) and side == int(side) and side > 0 for side in (height, width))
    if not whole or height * width >= _MOST_PIXELS:
        raise UserError(f"{path}: height and width of image {number} must be pixels, got {str(found)[:100]}.")
    return int(height), int(width)


@dataclass(frozen=True, slots=True)
class _Category:
    id: Id
    name: str
    group: Any


def read_classes(path: Path, categories: list[Any], annotations: list[Any]) -> dict[Id, str]:
    """Returns the name of each category in the order of the ids, without those that only group others.

    Roboflow writes such a root. An annotation must have none of them.

    Raises:
        UserError: There is none, or an entry lacks something, is broken or twice there.
    """
    used = {read_id(record.get("category_id")) for record in annotations if isinstance(record, dict)}
    return _name_classes(path, _read_categories(path, categories), used)


def _read_categories(path: Path, records: list[Any]) -> list[_Category]:
    categories: dict[Id, _Category] = {}
    for record in records:
        require(path, "category", record, ("id", "name"))
        number, name = read_id(record["id"]), record["name"]
        if number is None:
            raise UserError(f"{path}: the id of a category must be a number or a text: {str(record)[:100]}.")
        # YAML and spreadsheets turn names such as 2012 into numbers.
        is_text = isinstance(name, str | int | float) and not isinstance(name, bool) and is_unicode(str(name))
        if not is_text or not str(name).strip():
            raise UserError(f"{path}: category {number} has the name {str(name)[:100]!r}; expected a text.")
        if number in categories:
            raise UserError(f"{path}: the category {number} '{name}' is listed twice.")
        categories[number] = _Category(number, str(name), record.get("supercategory"))
    if not categories:
        raise UserError(f"{path}: 'categories' is empty; expected the classes of the data set.")
    return sorted(categories.values(), key=lambda category: order_of_ids(category.id))


def _name_classes(path: Path, categories: list[_Category], used: set[Id | None]) -> dict[Id, str]:
    groups = {category.group for category in categories if isinstance(category.group, str)}
    own = {category.id for category in categories if category.group == category.name}
    left_out = [
        category
        for category in categories
        if category.id not in used and category.id not in own and category.name in groups
    ]
    names: dict[Id, str] = {}
    for category in categories:
        if category in left_out:
            continue
        if category.name in names.values():
            raise UserError(f"{path}: the category {category.id} '{category.name}' is listed twice.")
        names[category.id] = category.name
    if left_out:
        _log.info(
            "%s: left out %s, which no annotation has and which only groups other categories",
            path.name,
            first_few(f"category {category.id} '{category.name}'" for category in left_out),
        )
    return names
