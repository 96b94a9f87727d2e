"""The options of an export, which are keys of ``conf/export.yaml``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from mbv2kit.errors import UserError, nearest
from mbv2kit.exporting.formats import FORMATS, REPOSITORIES
from mbv2kit.models.exports import Format, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Which file to write, and how to check it.

    Attributes:
        format: Format of the file, or the kind of model repository that it is laid into.
        precision: Precision in which the network computes.
        size: Height and width of the input; None takes that of the model.
        batch: Number of images per batch; None allows any number if the format does, and is 1 otherwise.
        nms: Whether the file includes non-maximum suppression.
        calibration: Files, folders or patterns from which int8 takes its ranges; None takes the training split.
        calibration_pictures: Number of images for the ranges.
        max_loss: Largest allowed fall of the main metric on the validation split, 0..1.
        accuracy_pictures: Number of images of that split; None takes all.
        sensitive_layers: Number of layers to list that lose most by int8.
        pictures: Files, folders or patterns on which outputs are compared; None takes the validation split.
        check_pictures: Number of images for the comparison.

    Raises:
        UserError: A value is unknown or out of range, or two values contradict each other.
    """

    format: str = "onnx"
    precision: Precision = "fp32"
    size: tuple[int, int] | None = None
    batch: int | None = None
    nms: bool = False
    calibration: str | Sequence[str] | None = None
    calibration_pictures: int = 128
    max_loss: float = 0.01
    accuracy_pictures: int | None = 500
    sensitive_layers: int = 5
    pictures: str | Sequence[str] | None = None
    check_pictures: int = 64

    def __post_init__(self) -> None:
        # A configuration may hold anything.
        known = (*FORMATS, *REPOSITORIES)
        if self.format not in known:
            raise UserError(f"format '{self.format}' is unknown.{nearest(str(self.format), known)}")
        info = FORMATS[self.file_format]
        if self.precision not in info.precisions:
            raise UserError(
                f"format={self.format} is written in {', '.join(info.precisions)}, not precision={self.precision}."
            )
        if self.size is not None:
            object.__setattr__(self, "size", tuple(self.size))
        if self.calibration is not None and self.precision != "int8":
            raise UserError(
                f"calibration= names images from which int8 takes its ranges, but precision={self.precision}; set "
                "precision=int8, or leave it out."
            )
        if self.nms and (self.file_format != "onnx" or self.batch != 1):
            raise UserError(
                f"nms=true needs format=onnx and batch=1, got format={self.format} and batch={self.batch}; without it, "
                "boxes are suppressed outside the file, which is faster."
            )

    @property
    def file_format(self) -> Format:
        """Format of the file."""
        return REPOSITORIES[self.format] if self.lays_repository else cast(Format, self.format)

    @property
    def lays_repository(self) -> bool:
        """Whether the file goes into a model repository instead of a model folder."""
        return self.format in REPOSITORIES
