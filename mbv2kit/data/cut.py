"""Makes class folders from a detection data set: each object is cut out along its box."""

from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from rich.progress import track

from mbv2kit.data.sources import Source
from mbv2kit.errors import UserError
from mbv2kit.structures import Sample


def cut_objects(source: Source, folder: Path, margin: float) -> int:
    """Writes every object of a source, except crowds, as ``folder/CLASS/IMAGE_NUMBER.png``.

    Args:
        source: A source that is opened for detection.
        folder: Parent of the class folders; every class gets one.
        margin: Margin around a box, as a fraction of its width and height; it ends at the border of the image.

    Returns:
        The number of images written.

    Raises:
        UserError: ``margin`` is negative, or ``folder`` is not empty.
    """
    if margin < 0:
        raise UserError(f"margin must be at least 0, got {margin}.")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name another folder with output=DIR, or empty it.")
    for name in source.class_names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    written = 0
    for index in track(range(len(source)), description=folder.name, transient=True):
        sample = source[index]
        for number, (label, image) in enumerate(_objects(sample, margin)):
            name = f"{Path(sample.image_id).stem}_{number:03d}.png"
            PillowImage.fromarray(image).save(folder / source.class_names[label] / name)
            written += 1
    return written


def _objects(sample: Sample, margin: float) -> list[tuple[int, np.ndarray]]:
    assert sample.boxes is not None
    assert sample.labels is not None
    assert sample.crowd is not None
    height, width = sample.image.shape[:2]
    found = []
    for box, label, crowd in zip(sample.boxes, sample.labels, sample.crowd, strict=True):
        if crowd:
            continue
        border = (box[2:] - box[:2]) * margin
        left, top = np.floor(np.maximum(box[:2] - border, 0)).astype(int)
        right, bottom = np.ceil(np.minimum(box[2:] + border, (width, height))).astype(int)
        found.append((int(label), sample.image[top:bottom, left:right]))
    return found
