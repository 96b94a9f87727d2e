"""Makes class folders from a detection data set: each object is cut out along its box."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from PIL import Image as PillowImage
from rich.progress import track

from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.names import safe_name
from mbv2kit.imaging.resizing import cut_box
from mbv2kit.structures import Image, Sample

# What is added to the name of an image: the number of the object and a suffix.
_MOST_NAME_BYTES = 255 - len("_1000000.png")


def cut_objects(sources: Mapping[str, Source], output: Path, margin: float) -> dict[str, int]:
    """Writes every object of some splits, except crowds, as ``output/SPLIT/CLASS/IMAGE_NUMBER.png``.

    Names of classes and images are escaped by :func:`mbv2kit.files.names.safe_name`, so that nothing is written
    elsewhere, and each class has a folder and each object a file of its own. A folder appears when it is complete.

    Args:
        sources: A source that is opened for detection for each folder of ``output``.
        output: Parent of these folders.
        margin: Margin around a box, as a fraction of its width and height; it ends at the border of the image.

    Returns:
        The number of images written into each folder.

    Raises:
        UserError: ``margin`` is no number of at least 0, a folder is not empty or cannot be written, or an image cannot
            be read.
    """
    if not 0 <= margin < float("inf"):
        raise UserError(f"margin must be a number of at least 0, got {margin}.")
    written = {}
    with disk_errors_told(output):
        for name in sources:
            folder = output / name
            if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
                raise UserError(f"{folder} is not an empty folder; name another with output=DIR, or empty it.")
        output.mkdir(parents=True, exist_ok=True)
        unfinished = output / f".unfinished-{os.getpid()}"
        try:
            for name, source in sources.items():
                written[name] = _cut(source, unfinished / name, margin)
            for name in sources:
                os.replace(unfinished / name, output / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return written


def _cut(source: Source, folder: Path, margin: float) -> int:
    classes = [folder / safe_name(name) for name in source.class_names]
    for each in classes:
        each.mkdir(parents=True)
    names: set[str] = set()
    written = 0
    for index in track(range(len(source)), description=folder.name, transient=True):
        sample = source[index]
        name = _name(sample.image_id, names)
        for number, (label, image) in enumerate(_objects(sample, margin)):
            PillowImage.fromarray(image).save(classes[label] / f"{name}_{number:03d}.png")
            written += 1
    return written


def _name(image: str, names: set[str]) -> str:
    """Returns a name that no other image has: its path, with suffix only where that makes the difference."""
    path = PurePosixPath(image)
    wanted = name = safe_name(str(path.with_suffix("")) if path.name else image, _MOST_NAME_BYTES)
    if name in names:
        wanted = name = safe_name(image, _MOST_NAME_BYTES)
    count = 1
    while name in names:
        count += 1
        name = safe_name(f"{wanted}~{count}", _MOST_NAME_BYTES)
    names.add(name)
    return name


def _objects(sample: Sample, margin: float) -> list[tuple[int, Image]]:
    assert sample.boxes is not None
    assert sample.labels is not None
    assert sample.crowd is not None
    objects = zip(sample.boxes, sample.labels, sample.crowd, strict=True)
    return [(int(label), cut_box(sample.image, box, margin)) for box, label, crowd in objects if not crowd]
