"""PyTorch, for models without an exported file."""

import torch
from torch import nn

from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.structures import Input


class TorchSession:
    """Runs a network in memory.

    Args:
        network: Network in evaluation mode, on any device, from ``(B, H, W, 3)`` to a tuple of outputs.
        outputs: Names of the outputs.
        compiled: Whether torch.compile generates code for this machine, which takes up to half a minute at the first
            image and at the first batch of another size.
    """

    def __init__(self, network: nn.Module, outputs: tuple[str, ...], *, compiled: bool = False) -> None:
        self._outputs = outputs
        self._network = network.to(memory_format=torch.channels_last)
        self._device = next(network.parameters()).device
        if compiled:
            # Frozen weights are constants, in the layout that suits the machine.
            self._network = torch.compile(self._network, options={"freezing": True})  # type: ignore[assignment]

    @torch.no_grad()
    def __call__(self, images: Input) -> Outputs:
        """Computes the outputs for ``(B, H, W, 3)`` RGB inputs."""
        outputs = self._network(torch.from_numpy(images).to(self._device))
        return {name: tensor.cpu().numpy() for name, tensor in zip(self._outputs, outputs, strict=True)}
