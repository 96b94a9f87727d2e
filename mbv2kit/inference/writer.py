"""The files that inference writes about an image: a drawing and a mask; and its lines of ``predictions.jsonl``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv2kit.imaging.images import UnreadableImageError
from mbv2kit.inference.results import Record, Result
from mbv2kit.structures import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes drawings and masks, and returns the lines of ``predictions.jsonl``; threads may share it.

    Attributes:
        output: An existing folder.
        tasks: Tasks of the model to write about.
        draw_min_score: Boxes of a lower score are left out of the drawings, 0..1.
        draws: Whether drawings are written.
    """

    output: Path
    tasks: Sequence[Task]
    draw_min_score: float
    draws: bool

    def write(self, name: str, result: Result) -> list[Record]:
        """Writes the files of an image and returns its records: one for each task, or one with the error.

        Args:
            name: Name of the files, without suffix.
            result: The predictions, or the error.
        """
        if result.error is not None:
            return [result.to_dict()]
        records = []
        for task in self.tasks:
            mask = None
            if task == "segmentation":
                mask = f"masks/{name}.png"
                result[task].save_mask(self.output / mask)
            records.append(result[task].to_dict(mask))
        return self._draw(name, result) or records

    def _draw(self, name: str, result: Result) -> list[Record]:
        """Writes the drawings; returns the record of the error where the whole image cannot be read."""
        if not self.draws:
            return []
        try:
            # The network's input was decoded no larger than the network needs it.
            drawn = replace(result, pixels=result.image)
        except UnreadableImageError as error:
            return [replace(result, error=str(error)).to_dict()]
        for task in self.tasks:
            stem = name if len(self.tasks) == 1 else f"{name}_{task}"
            drawn[task].save(self.output / "images" / f"{stem}.jpg", self.draw_min_score)
        return []
