"""PyTorch itself, for models that were not exported; the one runtime that needs no file."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mbv2kit.imaging.postprocess import Outputs


class TorchSession:
    """A network of ours that is in memory.

    Args:
        network: From uint8 ``(B, H, W, 3)`` to a tuple of answers, in evaluation mode.
        outputs: Names of the answers.
        compiled: Whether torch.compile makes code for this machine of it, which takes up to half a minute at the first
            image and at the first batch of another length.
    """

    def __init__(self, network: nn.Module, outputs: tuple[str, ...], *, compiled: bool = False) -> None:
        self._outputs = outputs
        self._network = network.to(memory_format=torch.channels_last)
        if compiled:
            from torch._inductor import config

            # Weights become constants, laid out as the machine likes them best.
            config.freezing = True
            self._network = torch.compile(self._network)  # type: ignore[assignment]

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        """Answers ``(B, H, W, 3)`` uint8 RGB."""
        outputs = self._network(torch.from_numpy(images))
        return {name: tensor.numpy() for name, tensor in zip(self._outputs, outputs, strict=True)}
