"""Reads the XML files of a data set with the layout of PASCAL VOC."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from defusedxml.ElementTree import parse

from mbv2kit.errors import UserError, one_line
from mbv2kit.structures import Boxes


@dataclass(frozen=True, slots=True)
class Annotation:
    """What an XML file says of its image.

    Attributes:
        path: The file.
        size: Height and width that it gives the image; None if it gives none.
        names: The class of each object.
        difficult: Whether each object is marked difficult.
        boxes: ``(N, 4)`` float32 ``xyxy`` pixels, continuous; as the file has them, so they may be outside the image.
    """

    path: Path
    size: tuple[int, int] | None
    names: list[str]
    difficult: list[bool]
    boxes: Boxes


def read_annotation(path: Path) -> Annotation:
    """Reads an XML file.

    Raises:
        UserError: The file cannot be read, is not an XML of VOC, or an object has no class or no box.
    """
    try:
        root = parse(path).getroot()
    except Exception as error:  # of the file, the parser, and the encoding that it names
        raise UserError(f"{path}: this is not valid XML ({one_line(error)}).") from None
    if root.tag != "annotation":
        # Any other file would count as an image without objects.
        raise UserError(
            f"{path}: the outermost element is <{root.tag[:100]}>; expected <annotation>, as in PASCAL VOC."
        )
    items = root.findall("object")
    boxes = [_box(path, item) for item in items]
    # Numbers beyond the range of float32 become infinite.
    with np.errstate(over="ignore"):
        array = np.array(boxes, dtype=np.float64).reshape(-1, 4).astype(np.float32)
    return Annotation(
        path,
        _size(root),
        [_name(path, item) for item in items],
        [item.findtext("difficult", "0").strip() == "1" for item in items],
        array,
    )


def _size(root: Element) -> tuple[int, int] | None:
    sides = []
    for key in ("height", "width"):
        try:
            side = float(root.findtext(f"size/{key}", ""))
        except ValueError:
            return None
        if not 0 < side < float("inf"):
            return None
        sides.append(round(side))
    return sides[0], sides[1]


def _name(path: Path, item: Element) -> str:
    name = item.findtext("name", "").strip()
    if not name:
        raise UserError(f"{path}: an object has no <name>; expected its class.")
    return name


def _box(path: Path, item: Element) -> tuple[float, float, float, float]:
    texts = [item.findtext(f"bndbox/{key}", "") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = (float(text) for text in texts)
    except ValueError:
        raise UserError(
            f"{path}: the <bndbox> of an object '{_name(path, item)}' must hold the numbers xmin, ymin, xmax, ymax, "
            f"got {texts}."
        ) from None
    # VOC counts pixels from 1, and the last pixel belongs to the box.
    return x1 - 1, y1 - 1, x2, y2
