"""What ``POST /predict`` answers: the line of ``predictions.jsonl``, the drawing or the mask of an image."""

import json
from dataclasses import dataclass, replace
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.imaging.encode import encode_jpeg
from mbv2kit.imaging.images import EncodedImage, decode
from mbv2kit.inference.results import Result

OUTPUTS = ("json", "drawing", "mask")


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of a response.

    Attributes:
        body: Its bytes.
        content_type: Their type.
        status: Status of HTTP.
    """

    body: bytes
    content_type: str = "application/json"
    status: int = 200


@dataclass(frozen=True, slots=True)
class ToAnswer:
    """Makes the answer from the result of an image.

    Attributes:
        output: One of :data:`OUTPUTS`.
        image: The image.
        name: What the line calls it; None for nothing.
        draw_min_score: Boxes of a lower score are left out of the drawing, 0..1.
    """

    output: str
    image: EncodedImage
    name: str | None
    draw_min_score: float

    def __call__(self, result: Result) -> Answer:
        """Returns the answer; that of an image without prediction says why."""
        if result.error is not None:
            # An image that was read, but has no prediction, is no fault of the client.
            return self._error(result.error, 400 if result.size == (0, 0) else 500)
        try:
            return self._shown(result)
        except UserError as error:
            return self._error(str(error), 400)

    def _shown(self, result: Result) -> Answer:
        if self.output == "mask":
            return Answer(result.encode_mask(), "image/png")
        if self.output == "drawing":
            # What the network needs is decoded no larger than that.
            drawing = replace(result, pixels=decode(self.image)).plot(self.draw_min_score)
            return Answer(encode_jpeg(drawing), "image/jpeg")
        return _json(result.to_dict() | {"image": self.name})

    def _error(self, message: str, status: int) -> Answer:
        return _json({"image": self.name, "error": message}, status)


def _json(values: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(values, allow_nan=False).encode(), status=status)
