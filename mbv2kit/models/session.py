"""Session: the interface of everything that runs a network."""

from typing import Protocol

from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.structures import Input


class Session(Protocol):
    """A network that is ready to run: arrays in, arrays out."""

    def __call__(self, images: Input) -> Outputs:
        """Computes the outputs for ``(B, H, W, 3)`` RGB inputs; the caller may keep the arrays.

        Returns:
            The arrays of every task of the network, as :mod:`mbv2kit.imaging.postprocess` defines them.
        """
