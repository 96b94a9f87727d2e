"""From the images that a program holds, arrays, tensors and Pillow images, to the RGB pixels used everywhere here.

torch is never imported: a tensor is known by its class.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.pixels import from_pillow
from mbv2kit.structures import Image

# Floats may leave 0..1 by half a gray level, as resizing with a cubic filter makes them do.
_SLACK = 0.5 / 255
_CHANNELS = (1, 3, 4)
_SHAPES = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def to_rgb(image: Any, *, bgr: bool = False) -> Image:
    """Converts an image that is not a file to ``(H, W, 3)`` uint8 RGB.

    Args:
        image: One of

            * a numpy array ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` or ``(H, W, 4)``: gray, RGB or RGBA;
            * a torch tensor ``(H, W)``, ``(1, H, W)``, ``(3, H, W)`` or ``(4, H, W)``, on any device;
            * a Pillow image of any mode, which its EXIF orientation turns upright.

            Integers are in 0..255, but uint16 in 0..65535; floats are in 0..1. Transparent pixels are laid on white.
        bgr: Whether arrays and tensors hold blue, green and red in this order, as OpenCV's frames do.

    Returns:
        The pixels; ``image`` itself where it is a contiguous RGB array already.

    Raises:
        UserError: The type, the shape or the range of the values is another one.
    """
    if isinstance(image, PillowImage.Image):
        # The values of a float image are in no range that Pillow knows.
        return to_rgb(np.asarray(image)) if image.mode == "F" else _load(image)
    if _is_tensor(image):
        array = _from_tensor(image)
    elif isinstance(image, np.ndarray):
        array = image
        _check_array(array)
    elif image is None:
        raise UserError("An image must not be None; cv2.imread returns it for a file that it cannot read.")
    else:
        raise UserError(
            "An image must be a path, a numpy array, a torch tensor or a Pillow image, "
            f"got {type(image).__module__}.{type(image).__qualname__}."
        )
    return _to_three_channels(_to_uint8(array), bgr)


def _load(image: PillowImage.Image) -> Image:
    try:
        return from_pillow(image)
    except Exception as error:  # decoders raise errors of every type
        file = getattr(image, "filename", "")
        name = f" of {file}" if file else ""
        raise UserError(f"The Pillow image{name} could not be read ({one_line(error)}).") from None


def _is_tensor(image: Any) -> bool:
    return any(kind.__module__ == "torch" and kind.__qualname__ == "Tensor" for kind in type(image).__mro__)


def _from_tensor(tensor: Any) -> NDArray[Any]:
    """Returns a tensor's values, channels last."""
    shape = tuple(tensor.shape)
    if len(shape) == 4:
        raise UserError(
            f"An image tensor must be (3, H, W), got a batch {shape}; pass the images as a list: list(batch)."
        )
    if len(shape) == 3 and shape[0] not in _CHANNELS and shape[2] in _CHANNELS:
        raise UserError(f"An image tensor must be (3, H, W), got {shape}; pass tensor.permute(2, 0, 1).")
    if not (len(shape) == 2 or (len(shape) == 3 and shape[0] in _CHANNELS)) or 0 in shape:
        raise UserError(f"An image tensor must be (H, W), (1, H, W), (3, H, W) or (4, H, W), got {shape}.")
    # numpy has no bfloat16.
    values = tensor.detach().cpu()
    array: NDArray[Any] = (values.float() if values.is_floating_point() else values).numpy()
    return array if array.ndim == 2 else array.transpose(1, 2, 0)


def _check_array(array: NDArray[Any]) -> None:
    shape = array.shape
    if array.ndim == 4:
        raise UserError(
            f"An image array must be {_SHAPES}, got a batch {shape}; pass the images as a list: list(batch)."
        )
    if array.ndim == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        raise UserError(f"An image array must be {_SHAPES}, got {shape}; pass array.transpose(1, 2, 0).")
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in _CHANNELS)) or 0 in shape:
        raise UserError(f"An image array must be {_SHAPES}, got {shape}.")


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return _from_16_bits(array)
    if kind in "iu":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise UserError(
                f"Pixels of dtype {array.dtype} must be in 0..255, got {low}..{high}; pass 16-bit pixels as uint16."
            )
        return array.astype(np.uint8)
    if kind == "f":
        return _from_floats(array)
    raise UserError(f"Pixels must be integers in 0..255 or floats in 0..1, got an array of dtype {array.dtype}.")


def _from_16_bits(array: NDArray[np.uint16]) -> NDArray[np.uint8]:
    high = int(array.max())
    if 0 < high <= 255:
        raise UserError(
            f"Pixels of dtype uint16 must be in 0..65535, but the highest is {high}, nearly black; if they are in "
            "0..255, pass array.astype(np.uint8)."
        )
    return np.round(array / 257).astype(np.uint8)


def _from_floats(array: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise UserError("Pixels must be in 0..1, but some are infinite or not a number.")
    if low < -_SLACK or high > 1 + _SLACK:
        hint = "divide by 255, or pass uint8" if low >= 0 and high <= 255 else "pass the image before normalization"
        raise UserError(f"Pixels of dtype {array.dtype} must be in 0..1, got {low:.4g}..{high:.4g}; {hint}.")
    return np.round(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def _to_three_channels(array: NDArray[np.uint8], bgr: bool) -> Image:
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        rgba = array[:, :, [2, 1, 0, 3]] if bgr else array
        return from_pillow(PillowImage.fromarray(np.ascontiguousarray(rgba)))
    contiguous = np.ascontiguousarray(array)
    return np.asarray(cv2.cvtColor(contiguous, cv2.COLOR_BGR2RGB), dtype=np.uint8) if bgr else contiguous
