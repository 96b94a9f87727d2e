"""Images for competitors that are called, and what a user's loop does to them before a network with float input."""

import numpy as np
from numpy.typing import NDArray

# ImageNet's mean and deviation, as scale and shift of the bytes.
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
_SCALE, _SHIFT = 1 / (255 * _STD), _MEAN / _STD


def pixels(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Returns ``(batch, height, width, 3)`` uint8; the time that networks and resizing take does not depend on them."""
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def normalize(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the images as floats around 0, still channels last."""
    return images * _SCALE - _SHIFT


def to_planes(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns channels-first images, contiguous, as exported networks of torch read them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
