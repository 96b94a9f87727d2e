"""Test images, and the preprocessing that a user writes for a network with float input."""

import numpy as np
from numpy.typing import NDArray

# Normalization by ImageNet's mean and standard deviation as one multiplication and subtraction.
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
_SCALE, _SHIFT = 1 / (255 * _STD), _MEAN / _STD


def pixels(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Returns ``(batch, height, width, 3)`` uint8 noise; the content does not change the speed."""
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def normalize(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the images as normalized floats, still channels last."""
    return images * _SCALE - _SHIFT


def to_planes(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns contiguous channels-first images, as networks exported from torch expect."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
