"""PyTorch, for models without an exported file."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv2kit.imaging.postprocess import Outputs


class TorchSession:
    """Runs a network in memory.

    Args:
        network: Network in evaluation mode, from uint8 ``(B, H, W, 3)`` to a tuple of outputs.
        outputs: Names of the outputs.
        compiled: Whether torch.compile generates code for this machine, which takes up to half a minute at the first
            image and at the first batch of another size.
    """

    def __init__(self, network: nn.Module, outputs: tuple[str, ...], *, compiled: bool = False) -> None:
        self._outputs = outputs
        self._network = network.to(memory_format=torch.channels_last)
        if compiled:
            # Frozen weights are constants, in the layout that suits the machine.
            self._network = torch.compile(self._network, options={"freezing": True})  # type: ignore[assignment]

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Computes the outputs for ``(B, H, W, 3)`` uint8 RGB inputs."""
        outputs = self._network(torch.from_numpy(images))
        return {name: tensor.numpy() for name, tensor in zip(self._outputs, outputs, strict=True)}
