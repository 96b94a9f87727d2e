"""Reads data sets with the layout of PASCAL VOC: an XML file of boxes or a palette PNG of classes for every image."""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import ClassVar, Literal
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.data.cleaning import ObjectFilter
from mbv2kit.data.sources.base import SOURCES, Source, ids_of_mask, layout_error, missing_split
from mbv2kit.data.table import AnnotationTable, TableBuilder, Texts
from mbv2kit.errors import UserError, nearest
from mbv2kit.imaging.images import decode, read_head
from mbv2kit.structures import IGNORE, Boxes, Sample, Task

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_SUFFIXES = (".jpg", ".jpeg", ".png")
_GROUND_TRUTH: dict[Task, tuple[str, str, str]] = {
    "detection": ("Main", "Annotations", ".xml"),
    "segmentation": ("Segmentation", "SegmentationClass", ".png"),
}


@SOURCES.register("voc")
class Voc(Source):
    """Detection and segmentation from folders with the layout of PASCAL VOC.

    The classes are the lines of ``ROOT/classes.txt``. Without this file they are the twenty of VOC, for segmentation
    after a background. If the annotations for detection have other names, the classes are all names of all lists in
    alphabetical order. A file that begins with ``background`` suits both tasks.

    Args:
        task: ``detection`` or ``segmentation``.
        root: The data set's folder, such as ``VOCdevkit/VOC2012``.
        split: Name of a list of images.
        difficult: ``ignore`` treats objects marked difficult as crowds, which evaluation ignores; ``count`` treats
            them like other objects.

    Raises:
        UserError: A list, image, XML or mask is missing or unusable.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"detection", "segmentation"})
    layout: ClassVar[str] = (
        "  ROOT/JPEGImages/NAME.jpg\n"
        "  ROOT/ImageSets/Main/{split}.txt and ROOT/Annotations/NAME.xml (detection)\n"
        "  ROOT/ImageSets/Segmentation/{split}.txt and ROOT/SegmentationClass/NAME.png (segmentation)\n"
        "  ROOT/classes.txt (optional: a class per line)"
    )

    def __init__(self, *, task: Task, root: Path, split: str, difficult: Literal["ignore", "count"] = "ignore") -> None:
        if difficult not in ("ignore", "count"):
            raise UserError(f"difficult must be 'ignore' or 'count', got '{difficult}'.")
        self._task = task
        self.knows_classes = task == "detection"
        lists, self._ground_truth = self._find_folders(root)
        names = _read_list(lists, split)
        files = {path.stem: path.name for path in (root / "JPEGImages").iterdir() if path.suffix.lower() in _SUFFIXES}
        _require(names, files, root / "JPEGImages", "image")
        _require(
            names,
            {path.stem for path in self._ground_truth.iterdir()},
            self._ground_truth,
            f"{_GROUND_TRUTH[task][2]} file",
        )
        self._names = Texts(names)
        self._files = Texts(files[name] for name in names)
        self._images = root / "JPEGImages"
        classes = _read_classes(root / "classes.txt")
        if task == "segmentation":
            self.class_names = classes or ("background", *VOC_CLASSES)
        else:
            foreground = classes[1:] if classes[:1] == ("background",) else classes
            self.class_names = foreground or _find_classes(lists, self._ground_truth)
            # From the images, because the size in the XML is often wrong or zero.
            self._sizes = np.array([read_head(self._images / file).upright for file in self._files], dtype=np.int32)
            self._table = self._read_boxes(difficult)

    def _find_folders(self, root: Path) -> tuple[Path, Path]:
        lists, ground_truth = (root / "ImageSets" / _GROUND_TRUTH[self._task][0], root / _GROUND_TRUTH[self._task][1])
        for folder in (root / "JPEGImages", lists, ground_truth):
            if not folder.is_dir():
                served = [task for task, (_, other, _) in _GROUND_TRUTH.items() if (root / other).is_dir()]
                hint = (
                    f" (the folders there are for {' and '.join(served)})"
                    if served and self._task not in served
                    else ""
                )
                missing = folder.relative_to(root).as_posix()
                raise layout_error(root, f"for {self._task} the folder {missing} is missing{hint}", self.layout)
        return lists, ground_truth

    def _read_boxes(self, difficult: str) -> AnnotationTable:
        # VOC's coordinates include the last pixel, so a box from 5 to 5 is one pixel wide here. No real object is: such
        # boxes are mistakes.
        builder, keep = TableBuilder(), ObjectFilter(min_side=np.nextafter(1, 2))
        for name, (height, width) in zip(self._names, self._sizes.tolist(), strict=True):
            path = self._ground_truth / f"{name}.xml"
            items = _read_objects(path)
            hard = [difficult == "ignore" and item.findtext("difficult", "0").strip() == "1" for item in items]
            found = [(self._label(path, item), ignored) for item, ignored in zip(items, hard, strict=True)]
            kept, boxes = keep(name, (height, width), found, [_box(path, item) for item in items])
            builder.append(name, boxes, [label for label, _ in kept], [ignored for _, ignored in kept])
        self._report_boxes(keep)
        return builder.build()

    def _label(self, path: Path, item: Element) -> int:
        name = _name(path, item)
        if name not in self.class_names:
            raise UserError(f"{path}: the class '{name}' is not in classes.txt.{nearest(name, self.class_names)}")
        return self.class_names.index(name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        image = decode(self._images / self._files[index])
        if self._task == "segmentation":
            mask = self._read_mask(self._ground_truth / f"{name}.png")
            if mask.shape != image.shape[:2]:
                raise UserError(
                    f"{self._ground_truth / name}.png: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, "
                    f"but its image is {image.shape[1]} x {image.shape[0]}."
                )
            return Sample(image=image, image_id=name, mask=mask)
        table = self._table
        return Sample(
            image=image, image_id=name, boxes=table.boxes(index), labels=table.labels(index), crowd=table.crowd(index)
        )

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the class of each object, or of each pixel of the mask; the image is not read."""
        if self._task == "segmentation":
            return ids_of_mask(self._read_mask(self._ground_truth / f"{self._names[index]}.png"))
        return np.where(self._table.crowd(index), -1, self._table.labels(index))

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields sizes and boxes that are known since the data set was opened; no image is read."""
        return self._table.objects(self._sizes)

    def _read_mask(self, path: Path) -> NDArray[np.uint8]:
        try:
            with PillowImage.open(path) as image:
                mode, mask = image.mode, np.array(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{path}: the mask could not be read ({error}).") from None
        if mode not in ("P", "L"):
            raise UserError(
                f"{path}: the mask must be an 8-bit palette or gray PNG that holds a class index per pixel, "
                f"but its mode is {mode}."
            )
        highest = int(mask[mask != IGNORE].max(initial=0))
        if highest >= len(self.class_names):
            raise UserError(
                f"{path}: the mask holds class {highest}, but there are only {len(self.class_names)} classes "
                f"(0 to {len(self.class_names) - 1}); list them all in classes.txt, and mark void as {IGNORE}."
            )
        return mask


def _require(names: list[str], present: Container[str], folder: Path, kind: str) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        more = f" (nor for {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{folder}: there is no {kind} for '{missing[0]}', which the list of images names{more}; "
            "add it or remove the name."
        )


def _read_list(folder: Path, split: str) -> list[str]:
    path = folder / f"{split}.txt"
    if not path.is_file():
        raise missing_split(folder, split, _list_names(folder))
    names = _read_names(path)
    if not names:
        raise UserError(f"{path}: the list is empty; expected the name of an image per line.")
    return names


def _read_names(path: Path) -> list[str]:
    # Lists of one class have a second column, which says whether the image shows that class.
    names = (line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    return list(dict.fromkeys(names))


def _list_names(folder: Path) -> list[str]:
    """Returns the lists of a folder, without VOC's sixty lists of one class unless there are no others."""
    names = sorted(path.stem for path in folder.glob("*.txt"))
    return [name for name in names if not name.startswith(tuple(f"{known}_" for known in VOC_CLASSES))] or names


def _read_classes(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        found = f"'{twice[0]}' is listed twice" if twice else "the file is empty"
        raise UserError(f"{path}: {found}; expected a class per line.")
    return tuple(names)


def _find_classes(lists: Path, annotations: Path) -> tuple[str, ...]:
    images = {name for path in lists.glob("*.txt") for name in _read_names(path)}
    paths = [annotations / f"{name}.xml" for name in sorted(images)]
    found = {_name(path, item) for path in paths if path.is_file() for item in _read_objects(path)}
    return tuple(VOC_CLASSES) if found <= set(VOC_CLASSES) else tuple(sorted(found))


def _read_objects(path: Path) -> list[Element]:
    try:
        return list(parse(path).getroot().findall("object"))
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise UserError(f"{path}: this is not valid XML ({error}).") from None


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
    return x1 - 1, y1 - 1, x2, y2
