"""PyTorch as a runtime, compiled for the machine or not."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mbv2kit.inference.runtimes.torch import TorchSession


class Edges(nn.Module):
    """A convolution of the pixels, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.permute(0, 3, 1, 2).float()
        return self.convolution(pixels), pixels.mean(dim=(2, 3))


@pytest.mark.slow
def test_a_compiled_network_has_the_same_outputs_and_leaves_the_settings_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config, "freezing", False)
    torch.manual_seed(0)
    network = Edges().eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    expected = TorchSession(network, ("edges", "mean"))(images)
    found = TorchSession(network, ("edges", "mean"), compiled=True)(images)
    assert not config.freezing
    assert list(found) == ["edges", "mean"]
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4)
