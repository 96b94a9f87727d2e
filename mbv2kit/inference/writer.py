"""The files that inference writes about an image: a drawing and a mask; and its line of ``predictions.jsonl``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mbv2kit.imaging.encode import TooLargeError, check_jpeg_size
from mbv2kit.imaging.images import UnreadableImageError
from mbv2kit.inference.records import Record
from mbv2kit.inference.results import Result
from mbv2kit.structures import TASKS, Task

LINES = "predictions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes drawings and masks, and returns the lines of ``predictions.jsonl``; threads may share it.

    Attributes:
        tasks: The heads to write about, each with its task; all of them share a line and a drawing.
        draw_min_score: Boxes of a lower score are left out of the drawings, 0..1.
        draws: Whether drawings are written.
    """

    tasks: Mapping[str, Task]
    draw_min_score: float
    draws: bool

    def files(self, names: Sequence[str]) -> Iterator[str]:
        """Yields the paths within the output of every file that may be written about images of these names."""
        yield LINES
        for name in names:
            if self.draws:
                yield _drawing(name)
            for head in self._masked:
                yield _mask(head, name)

    @property
    def _masked(self) -> list[str]:
        return [head for head, task in self.tasks.items() if task == "segmentation"]

    def write(self, output: Path, name: str, result: Result) -> Record:
        """Writes the files of an image and returns its record.

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
            return result.to_dict()
        result = replace(result, predictions={head: result.predictions[head] for head in self.tasks})
        note = drawing = None
        if self.draws:
            try:
                check_jpeg_size(*result.size)
                # The network's input was decoded no larger than the network needs it.
                result = replace(result, pixels=result.image)
                drawing = _drawing(name)
                result.save(output / drawing, self.draw_min_score)
            except TooLargeError as error:
                drawing, note = None, str(error)
            except UnreadableImageError as error:
                return replace(result, error=str(error)).to_dict()
        masks = {head: _mask(head, name) for head in self._masked}
        for head, mask in masks.items():
            result[head].save_mask(output / mask)
        return result.to_dict(masks, drawing) | ({} if note is None else {"note": f"Not drawn: {note}"})


def _drawing(name: str) -> str:
    return f"images/{name}.jpg"


def _mask(head: str, name: str) -> str:
    return f"masks{'' if head in TASKS else f'_{head}'}/{name}.png"
