"""From a file or an image to the input of a network."""

from typing import NamedTuple

import cv2
import numpy as np

from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.images import UnreadableImageError, decode
from mbv2kit.imaging.preprocess import Placement, Preprocess, preprocess_file
from mbv2kit.inference.sources import Source
from mbv2kit.structures import Image, Input


class Ready(NamedTuple):
    """An image that is ready for the network.

    Attributes:
        inputs: The network's input.
        placement: Where the image lies in it.
        pixels: ``(H, W, 3)`` uint8 RGB of the image; None for a file that was decoded no larger than needed.
    """

    inputs: Input
    placement: Placement
    pixels: Image | None


def read_input(source: Source, preprocess: Preprocess, *, whole: bool) -> Ready | UserError:
    """Preprocesses an image.

    Args:
        source: The image or its file.
        preprocess: How it becomes the network's input.
        whole: Whether a file is decoded at full size.

    Returns:
        The input, or why a file has none.
    """
    if isinstance(source, np.ndarray):
        return Ready(*preprocess(source), source)
    try:
        if whole:
            pixels = decode(source)
            return Ready(*preprocess(pixels), pixels)
        return Ready(*preprocess_file(source, preprocess), None)
    except UserError as error:
        return error
    except (MemoryError, cv2.error) as error:
        # An image that no memory holds must not keep the others from their predictions.
        return UnreadableImageError(f"{source}: the image could not be preprocessed ({one_line(error)}).")
