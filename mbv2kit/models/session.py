"""Session: the interface of everything that runs a network."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.postprocess import Outputs


class Session(Protocol):
    """A network that is ready to run: arrays in, arrays out."""

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Computes the outputs for ``(B, H, W, 3)`` uint8 RGB inputs; the caller may keep the arrays.

        Returns:
            The arrays of every task of the network, as :mod:`mbv2kit.imaging.postprocess` defines them.
        """
