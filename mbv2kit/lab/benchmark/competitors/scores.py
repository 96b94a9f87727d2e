"""Realistic scores for detectors with random weights, so that NMS does its usual work."""

import numpy as np
from numpy.typing import NDArray

# The k-th highest score is BOXES_AT_5_PERCENT * 0.05 / k. A detector trained on everyday scenes has about as many above
# any threshold: a hundred above 0.05, five thousand above 0.001.
BOXES_AT_5_PERCENT = 100
_HIGHEST = 0.95


def detector_scores(anchors: int, classes: int) -> NDArray[np.float32]:
    """Returns ``(anchors, classes)`` float32 scores in random order."""
    ranks = np.random.default_rng(0).permutation(anchors * classes) + 1
    return np.minimum(_HIGHEST, 0.05 * BOXES_AT_5_PERCENT / ranks).astype(np.float32).reshape(anchors, classes)
