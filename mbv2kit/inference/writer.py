"""The files that inference writes about an image: a drawing and a mask; and its lines of ``predictions.jsonl``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv2kit.imaging.encode import TooLargeError, check_jpeg_size
from mbv2kit.imaging.images import UnreadableImageError
from mbv2kit.inference.results import Record, Result
from mbv2kit.structures import Task

LINES = "predictions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes drawings and masks, and returns the lines of ``predictions.jsonl``; threads may share it.

    Attributes:
        tasks: Tasks of the model to write about.
        draw_min_score: Boxes of a lower score are left out of the drawings, 0..1.
        draws: Whether drawings are written.
    """

    tasks: Sequence[Task]
    draw_min_score: float
    draws: bool

    def files(self, names: Sequence[str]) -> Iterator[str]:
        """Yields the paths within the output of every file that may be written about images of these names."""
        yield LINES
        for name in names:
            yield from (self._drawing(name, task) for task in self.tasks if self.draws)
            yield from (_mask(name) for task in self.tasks if task == "segmentation")

    def write(self, output: Path, name: str, result: Result) -> list[Record]:
        """Writes the files of an image and returns its records: one for each task, or one with the error.

        A drawing that is too large for its format is left out, and the record has a ``note`` that says so.

        Args:
            output: An existing folder.
            name: Name of the files, without suffix.
            result: The predictions, or the error.

        Raises:
            UserError: A file cannot be written.
            OSError: Likewise.
        """
        if result.error is not None:
            return [result.to_dict()]
        note = None
        if self.draws:
            try:
                check_jpeg_size(*result.size)
                # The network's input was decoded no larger than the network needs it.
                result = replace(result, pixels=result.image)
            except TooLargeError as error:
                note = str(error)
            except UnreadableImageError as error:
                return [replace(result, error=str(error)).to_dict()]
        return [self._write(output, name, task, result[task], note) for task in self.tasks]

    def _write(self, output: Path, name: str, task: Task, result: Result, note: str | None) -> Record:
        mask = drawing = None
        if task == "segmentation":
            mask = _mask(name)
            result.save_mask(output / mask)
        if self.draws and note is None:
            drawing = self._drawing(name, task)
            try:
                result.save(output / drawing, self.draw_min_score)
            except TooLargeError as error:
                drawing, note = None, str(error)
        return result.to_dict(mask, drawing) | ({} if note is None else {"note": f"Not drawn: {note}"})

    def _drawing(self, name: str, task: Task) -> str:
        return f"images/{name if len(self.tasks) == 1 else f'{name}_{task}'}.jpg"


def _mask(name: str) -> str:
    return f"masks/{name}.png"
