"""Widths and heights of the boxes of a data set, from which a head derives its anchors."""

import numpy as np

from mbv2kit.data.sources import Source
from mbv2kit.heads.registry import Shapes
from mbv2kit.imaging.preprocess import Preprocess


def box_shapes(source: Source, preprocess: Preprocess) -> Shapes:
    """Returns width and height of every box of a source, without crowds, after preprocessing.

    Augmentation is left out: these are the shapes that the model meets in use.

    Args:
        source: Opened for detection.
        preprocess: The model's preprocessing.

    Returns:
        ``(N, 2)`` as shares of the input's width and height.
    """
    shapes = [np.empty((0, 2))]
    for (height, width), boxes in source.objects():
        content_height, content_width = preprocess.content(height, width)
        sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64) / (width, height)
        shapes.append(sides * (content_width / preprocess.size[1], content_height / preprocess.size[0]))
    return np.concatenate(shapes)
