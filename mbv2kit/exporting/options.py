"""What an export is asked for: the keys of ``conf/export.yaml``, checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbv2kit.errors import UserError, nearest
from mbv2kit.exporting.formats import FORMATS
from mbv2kit.models.exports import Format, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Which file to write, and how to check it.

    Attributes:
        format: Of the file.
        precision: In which the network shall compute.
        size: Height and width of the input; None for that of the model.
        batch: Images at a time; None for any number where the format can, and else 1.
        nms: Whether the file suppresses boxes itself.
        calibration: Files, folders or patterns that int8 takes its ranges from; None for the training split.
        calibration_pictures: How many of them.
        max_loss: How far the main figure may fall on the validation split, 0..1.
        accuracy_pictures: How many images of that split; None for all.
        sensitive_layers: How many of the layers that suffer most from int8 are named.
        pictures: Files, folders or patterns to compare answers on; None for the validation split.
        check_pictures: How many of them.

    Raises:
        UserError: A value is unknown or out of range, or two of them do not go together.
    """

    format: Format = "onnx"
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
        if self.format not in FORMATS:
            raise UserError(f"format '{self.format}' is unknown.{nearest(str(self.format), FORMATS)}")
        info = FORMATS[self.format]
        if self.precision not in info.precisions:
            raise UserError(
                f"format={self.format} is written in {', '.join(info.precisions)}, not precision={self.precision}."
            )
        for key, least in (("batch", 1), ("calibration_pictures", 1), ("check_pictures", 1), ("accuracy_pictures", 1)):
            _check_count(key, getattr(self, key), least)
        _check_count("sensitive_layers", self.sensitive_layers, 0)
        if not isinstance(self.max_loss, int | float) or not 0 <= self.max_loss <= 1:
            raise UserError(f"max_loss must be in 0..1, got {self.max_loss}.")
        if self.size is not None:
            if not isinstance(self.size, list | tuple) or len(self.size) != 2:
                raise UserError(
                    f"size needs two numbers, [height, width], or null for that of training, got {self.size}."
                )
            for side in self.size:
                _check_count("size", side, 1)
            object.__setattr__(self, "size", tuple(self.size))
        if self.nms and (self.format != "onnx" or self.batch != 1):
            raise UserError(
                f"nms=true is for format=onnx with batch=1, got format={self.format} and batch={self.batch}; "
                "leave it out and boxes are suppressed outside the file, which is faster."
            )


def _check_count(key: str, value: object, least: int) -> None:
    if value is not None and (not isinstance(value, int) or value < least):
        raise UserError(f"{key} must be a whole number from {least} up, got {value}.")
