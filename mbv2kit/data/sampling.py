"""Selects a few images that represent all."""

import numpy as np


def evenly_spaced(total: int, count: int | None) -> list[int]:
    """Returns up to ``count`` evenly spread indices below ``total``; None returns all."""
    if count is None or count >= total:
        return list(range(total))
    return [round(position) for position in np.linspace(0, total - 1, num=count)]
