"""Scores as a trained detector gives them, for detectors with random weights, so that NMS has its usual work."""

import numpy as np
from numpy.typing import NDArray

# The k-th highest score is BOXES_AT_5_PERCENT * 0.05 / k: as many lie above any threshold as a detector has that is
# trained on everyday scenes, a hundred above 0.05 and five thousand above 0.001.
BOXES_AT_5_PERCENT = 100
_HIGHEST = 0.95


def detector_scores(anchors: int, classes: int) -> NDArray[np.float32]:
    """Returns ``(anchors, classes)`` float32 scores, strewn over anchors and classes."""
    ranks = np.random.default_rng(0).permutation(anchors * classes) + 1
    return np.minimum(_HIGHEST, 0.05 * BOXES_AT_5_PERCENT / ranks).astype(np.float32).reshape(anchors, classes)
