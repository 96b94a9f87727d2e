"""What is written about an image: its lines of ``predictions.jsonl``, its drawings and its mask."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.imaging.draw import BEST, annotate, palette
from mbv2kit.imaging.images import UnreadableImageError, count_values, decode
from mbv2kit.inference.pipeline import Predicted, Unreadable
from mbv2kit.structures import Classification, Detections, Prediction, Segmentation, Task

# A millionth of a score and a hundredth of a pixel: finer than any model knows, short enough to read.
_SCORE_DIGITS = 6
_PIXEL_DIGITS = 2

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes the drawings and masks of images, and says what their lines shall hold; threads may share it.

    Attributes:
        output: The folder, which is there.
        tasks: Which of the model's tasks to write of.
        class_names: For each task the names of its classes, by class id.
        min_score: Boxes below it are left out of the lines, 0..1.
        draw_min_score: Boxes below it are left out of the drawings, 0..1.
        draws: Whether drawings are made.
    """

    output: Path
    tasks: Sequence[Task]
    class_names: Mapping[Task, Sequence[str]]
    min_score: float
    draw_min_score: float
    draws: bool

    def write(self, name: str, result: Predicted | Unreadable) -> list[Record]:
        """Writes the files of one image and returns its records, one for each task, or one that says what is wrong.

        Args:
            name: Of its files, without suffix.
            result: The predictions, or the error.
        """
        if isinstance(result, Unreadable):
            return [{"image": str(result.path), "error": result.error}]
        height, width = result.size
        records = []
        for task in self.tasks:
            prediction, names = result.predictions[task], self.class_names[task]
            record: Record = {"image": str(result.path), "width": width, "height": height, "task": task}
            if isinstance(prediction, Segmentation):
                mask = Path("masks", f"{name}.png")
                _write_mask(self.output / mask, prediction.mask, names)
                record["mask"] = mask.as_posix()
            records.append(record | describe(prediction, names, self.min_score))
        return self._draw(name, result) or records

    def _draw(self, name: str, result: Predicted) -> list[Record]:
        """Draws the predictions; returns the record of the error where the whole image cannot be read."""
        if not self.draws:
            return []
        try:
            # The network's input was decoded no larger than the network needs it.
            image = decode(result.path)
        except UnreadableImageError as error:
            return self.write(name, Unreadable(result.path, str(error)))
        folder = self.output / "images"
        folder.mkdir(exist_ok=True)
        for task in self.tasks:
            drawing = annotate(image, result.predictions[task], self.class_names[task], self.draw_min_score)
            stem = name if len(self.tasks) == 1 else f"{name}_{task}"
            jpeg = simplejpeg.encode_jpeg(drawing, quality=92, colorspace="RGB", colorsubsampling="420", fastdct=False)
            (folder / f"{stem}.jpg").write_bytes(jpeg)
        return []


def describe(prediction: Prediction, class_names: Sequence[str], min_score: float) -> Record:
    """Says a prediction in plain values: the five best ``classes``, ``boxes``, or each class's share in ``fractions``.

    Args:
        prediction: In pixels of the image.
        class_names: By class id.
        min_score: Boxes below it are left out.
    """
    if isinstance(prediction, Classification):
        best = zip(prediction.class_ids[:BEST].tolist(), prediction.scores[:BEST].tolist(), strict=True)
        return {"classes": [_label(class_id, score, class_names) for class_id, score in best]}
    if isinstance(prediction, Detections):
        found = zip(prediction.class_ids.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), strict=True)
        return {
            "boxes": [
                _label(class_id, score, class_names) | {"box": [round(value, _PIXEL_DIGITS) for value in box]}
                for class_id, score, box in found
                if score >= min_score
            ]
        }
    counts = count_values(prediction.mask)
    pixels: Counter[str] = Counter()
    for class_id in np.flatnonzero(counts).tolist():
        # Several classes may share a name.
        pixels[class_names[class_id]] += counts[class_id].item()
    return {"fractions": {name: round(count / prediction.mask.size, _SCORE_DIGITS) for name, count in pixels.items()}}


def _label(class_id: int, score: float, class_names: Sequence[str]) -> Record:
    return {"class_id": class_id, "label": class_names[class_id], "score": round(score, _SCORE_DIGITS)}


def _write_mask(path: Path, mask: NDArray[np.uint8], class_names: Sequence[str]) -> None:
    """Writes class indices as a palette PNG, as VOC does: a viewer shows colors, a program reads indices."""
    path.parent.mkdir(exist_ok=True)
    image = PillowImage.fromarray(mask)
    image.putpalette(palette(class_names).tobytes())
    # Regions are long runs of one class: to look for nothing else takes a third of the time and fewer bytes.
    image.save(path, compress_type=zlib.Z_RLE)
