"""Reads data sets with the layout of PASCAL VOC: an XML file of boxes or a palette PNG of classes for every image."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.data.cleaning import ObjectFilter
from mbv2kit.data.inside import Border, PathOptions
from mbv2kit.data.names import same_but_for_case
from mbv2kit.data.sources.base import SOURCES, EncodedImage, Source, ids_of_mask, layout_error, missing_split
from mbv2kit.data.sources.voc.annotation import read_annotation
from mbv2kit.data.sources.voc.lists import ImageFiles, names_in, read_classes, read_images
from mbv2kit.data.sources.voc.turning import upright_boxes
from mbv2kit.data.table import TableBuilder, Texts
from mbv2kit.errors import UserError, first_few, nearest
from mbv2kit.imaging.images import decode, read_head, read_heads, reading
from mbv2kit.imaging.orientation import turn
from mbv2kit.structures import IGNORE, Boxes, Sample, Task

logger = logging.getLogger(__name__)

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
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
        paths: Whether symbolic links may lead out of the root.

    Raises:
        UserError: A list, image, XML or mask is missing or unusable, or a link leads out of the root.
    """

    provides: ClassVar[frozenset[Task]] = frozenset({"detection", "segmentation"})
    layout: ClassVar[str] = (
        "  ROOT/JPEGImages/NAME.jpg\n"
        "  ROOT/ImageSets/Main/{split}.txt and ROOT/Annotations/NAME.xml (detection)\n"
        "  ROOT/ImageSets/Segmentation/{split}.txt and ROOT/SegmentationClass/NAME.png (segmentation)\n"
        "  ROOT/classes.txt (optional: a class per line)"
    )

    def __init__(
        self,
        *,
        task: Task,
        root: Path,
        split: str,
        difficult: Literal["ignore", "count"] = "ignore",
        paths: PathOptions = PathOptions(),
    ) -> None:
        self._task = task
        self._border = Border(root, paths)
        self.knows_classes = task == "detection"
        self._images = root / "JPEGImages"
        lists, self._ground_truth = self._find_folders(root)
        files = ImageFiles(self._images, self._border)
        names = self._read_list(lists, split, files)
        self._names = Texts(names)
        self._files = Texts(names.values())
        classes = read_classes(self._border.check(root / "classes.txt"))
        if task == "segmentation":
            self.class_names = classes or _voc_classes(root)
        else:
            foreground = classes[1:] if classes[:1] == ("background",) else classes
            self.class_names = foreground or self._find_classes(lists, files)
            self._read_boxes(difficult)

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

    def _read_list(self, lists: Path, split: str, files: ImageFiles) -> dict[str, str]:
        path = lists / f"{split}.txt"
        if not path.exists():
            raise missing_split(lists, split, _list_names(lists))
        names, missing = read_images(self._border.check(path), files)
        _require_none(self._images, "image", missing, files.left_out)
        if not names:
            raise UserError(f"{path}: the list is empty; expected the name of an image per line.")
        without = [name for name in names if not self._border.check(self._annotated(name)).is_file()]
        _require_none(self._ground_truth, f"{_GROUND_TRUTH[self._task][2]} file", without)
        return names

    def _annotated(self, name: str) -> Path:
        """Returns the file of an image's ground truth."""
        return self._ground_truth / f"{name}{_GROUND_TRUTH[self._task][2]}"

    def _find_classes(self, lists: Path, files: ImageFiles) -> tuple[str, ...]:
        """Returns the classes of the images of all lists."""
        images = {name for path in lists.glob("*.txt") for name in names_in(self._border.check(path), files)}
        paths = [self._border.check(self._annotated(name)) for name in sorted(images)]
        found = sorted({name for path in paths if path.is_file() for name in read_annotation(path).names})
        if set(found) <= set(VOC_CLASSES):
            return tuple(VOC_CLASSES)
        forms = Counter(map(same_but_for_case, found))
        alike = [f"'{name}'" for name in found if forms[same_but_for_case(name)] > 1]
        if alike:
            logger.warning(
                "The classes %s differ only by case, underscores or the form of their Unicode, and count as different; "
                "classes.txt can name the right ones",
                first_few(alike),
            )
        return tuple(found)

    def _read_boxes(self, difficult: str) -> None:
        # From the images, because the size in the XML is often zero.
        heads = read_heads([self._images / file for file in self._files])
        annotations = [read_annotation(self._annotated(name)) for name in self._names]
        self._sizes = np.array([head.upright for head in heads], dtype=np.int32)
        # VOC's coordinates include the last pixel, so a box from 5 to 5 is one pixel wide here. No real object is: such
        # boxes are mistakes.
        builder, keep = TableBuilder(), ObjectFilter(min_side=np.nextafter(1, 2))
        boxes = upright_boxes(self._files, heads, annotations)
        for name, head, annotation, drawn in zip(self._names, heads, annotations, boxes, strict=True):
            labels = [self._label(annotation.path, each) for each in annotation.names]
            hard = [difficult == "ignore" and each for each in annotation.difficult]
            kept, clipped = keep(name, head.upright, list(zip(labels, hard, strict=True)), drawn)
            builder.append(name, clipped, [label for label, _ in kept], [ignored for _, ignored in kept])
        self._report_boxes(keep)
        self._table = builder.build()

    def _label(self, path: Path, name: str) -> int:
        if name not in self.class_names:
            raise UserError(f"{path}: the class '{name}' is not in classes.txt.{nearest(name, self.class_names)}")
        return self.class_names.index(name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        image = decode(self._images / self._files[index])
        if self._task == "segmentation":
            mask = self._read_mask(self._annotated(name))
            if mask.shape != image.shape[:2]:
                mask = self._turn_mask(mask, index)
            return Sample(image=image, image_id=name, mask=mask)
        table = self._table
        return Sample(
            image=image, image_id=name, boxes=table.boxes(index), labels=table.labels(index), crowd=table.crowd(index)
        )

    def encoded_image(self, index: int) -> EncodedImage:
        """Returns the file of image ``index``."""
        return EncodedImage.read(self._images / self._files[index])

    def image_names(self) -> Iterable[str]:
        """Returns the names in the list of the split; no image is read."""
        return self._names

    def class_ids(self, index: int) -> NDArray[np.int64]:
        """Returns the class of each object, or of each pixel of the mask; the image is not read."""
        if self._task == "segmentation":
            return ids_of_mask(self._read_mask(self._annotated(self._names[index])))
        return np.where(self._table.crowd(index), -1, self._table.labels(index))

    def objects(self) -> Iterator[tuple[tuple[int, int], Boxes]]:
        """Yields sizes and boxes that are known since the data set was opened; no image is read."""
        return self._table.objects(self._sizes)

    def _turn_mask(self, mask: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """Turns the mask of an image that was annotated as its file stores it; raises if it has another size."""
        head = read_head(self._images / self._files[index])
        if mask.shape == head.stored:
            return turn(mask, head.orientation)
        raise UserError(
            f"{self._annotated(self._names[index])}: the mask is {mask.shape[1]} x {mask.shape[0]} pixels, but "
            f"its image is {head.upright[1]} x {head.upright[0]}."
        )

    def _read_mask(self, path: Path) -> NDArray[np.uint8]:
        with reading(path, "mask"), PillowImage.open(path) as image:
            if image.mode not in ("P", "L"):
                raise UserError(
                    f"{path}: the mask must be an 8-bit palette or gray PNG that holds a class index per pixel, "
                    f"but its mode is {image.mode}."
                )
            mask = np.array(image)
        highest = int(mask[mask != IGNORE].max(initial=0))
        if highest >= len(self.class_names):
            raise UserError(
                f"{path}: the mask holds class {highest}, but there are only {len(self.class_names)} classes "
                f"(0 to {len(self.class_names) - 1}); list them all in classes.txt, and mark void as {IGNORE}."
            )
        return mask


def _voc_classes(root: Path) -> tuple[str, ...]:
    """Returns the classes of masks that nothing names, with a warning: a mask holds numbers, which fit any names."""
    names = ("background", *VOC_CLASSES)
    logger.warning(
        "%s: there is no classes.txt, so the classes of the masks are taken to be those of PASCAL VOC, from 0 %s and 1 "
        "%s to %d %s; if they are others, name them there, a class per line",
        *(root, names[0], names[1], len(names) - 1, names[-1]),
    )
    return names


def _require_none(folder: Path, kind: str, missing: Sequence[str], left_out: Sequence[str] = ()) -> None:
    if missing:
        more = f" (nor for {len(missing) - 1} more)" if len(missing) > 1 else ""
        others = f", but there are {' and '.join(left_out)}" if left_out else ""
        raise UserError(
            f"{folder}: there is no {kind} for '{missing[0]}', which the list of images names{more}{others}; "
            "add it or remove the name."
        )


def _list_names(folder: Path) -> list[str]:
    """Returns the lists of a folder, without VOC's sixty lists of one class unless there are no others."""
    names = sorted(path.stem for path in folder.glob("*.txt"))
    return [name for name in names if not name.startswith(tuple(f"{known}_" for known in VOC_CLASSES))] or names
