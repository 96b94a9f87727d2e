"""Tensors of the Open Inference Protocol: their types, and arrays as lists of JSON or as bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv2kit.serving.errors import RefusedError

# Every output of a network has one of these types; bytes are little-endian, as on every machine that runs here.
DATATYPES: Mapping[str, str] = {
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
}
_TYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a model takes or returns, for any number of images.

    Attributes:
        name: Name of the tensor.
        datatype: One of the values of :data:`DATATYPES`.
        shape: Sides of the part of an image.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the metadata of the tensor; -1 is any number of images."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.shape]}

    @classmethod
    def of(cls, name: str, array: NDArray[Any]) -> "TensorInfo":
        """Describes an array with a row for each image."""
        return cls(name, DATATYPES[array.dtype.name], array.shape[1:])

    def from_bytes(self, data: bytes, images: int) -> NDArray[Any]:
        """Returns the tensor that some bytes hold.

        Raises:
            RefusedError: They are too few or too many.
        """
        kind = _TYPES[self.datatype]
        expected = images * int(np.prod(self.shape)) * kind.itemsize
        if len(data) != expected:
            wanted = f"{expected:,} bytes for {self.shown(images)}, got {len(data):,}"
            raise RefusedError(400, f"The data of '{self.name}' must have {wanted}.")
        return np.frombuffer(data, kind).reshape(images, *self.shape)

    def from_list(self, data: Any, images: int) -> NDArray[Any]:
        """Returns the tensor that a list of JSON holds, flat or nested.

        Raises:
            RefusedError: It holds something else than numbers of the type, or too few or too many.
        """
        kind = _TYPES[self.datatype]
        expected = images * int(np.prod(self.shape))
        try:
            array = np.asarray(data)
        except (ValueError, OverflowError):
            array = np.empty(0)
        if array.size != expected or array.dtype.kind not in ("iu" if kind.kind == "u" else "iuf"):
            raise RefusedError(400, f"The data of '{self.name}' must be {expected:,} numbers for {self.shown(images)}.")
        if kind.kind == "u" and not 0 <= array.min() <= array.max() <= np.iinfo(kind).max:
            raise RefusedError(400, f"The data of '{self.name}' must be in 0..{np.iinfo(kind).max}.")
        return array.astype(kind).reshape(images, *self.shape)

    def shown(self, images: int) -> str:
        """Returns the type and the shape for a message."""
        return f"{self.datatype} {[images, *self.shape]}"
