"""Which images of many stand for all."""

import numpy as np


def evenly_spaced(total: int, count: int | None) -> list[int]:
    """Returns up to ``count`` indices of ``total`` things, evenly spread; None for all."""
    if count is None or count >= total:
        return list(range(total))
    return [round(place) for place in np.linspace(0, total - 1, num=count)]
