"""Counts the positive channels of each expansion after ReLU6: the activation patterns of Figure 7.

ReLU is invertible at a pixel if at least as many channels are positive as the bottleneck has channels (the paper's
appendix), a share of 1/t for an expansion by t. This assumes independent rows of weights and, like the figure, ignores
that ReLU6 also clips at 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.nn.layers import ConvNormAct, InvertedResidual
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Image

BATCH = 16


@dataclass(frozen=True, slots=True)
class ActivationPattern:
    """Numbers of positive channels of one expansion, over all pixels of some images.

    Attributes:
        layer: Name of the block in the backbone, such as ``layer_3``.
        threshold: Positive channels that make ReLU invertible: the channels of the expanded bottleneck.
        pixels: ``(n + 1,)``, the number of pixels with 0, 1, ... n positive channels.
    """

    layer: str
    threshold: int
    pixels: NDArray[np.int64]

    @property
    def channels(self) -> int:
        """Channels of the expansion, n."""
        return len(self.pixels) - 1

    @property
    def mean(self) -> float:
        """Mean number of positive channels over the pixels, in 0..n."""
        return float(np.average(np.arange(len(self.pixels)), weights=self.pixels))

    @property
    def deviation(self) -> float:
        """Standard deviation of the number of positive channels over the pixels."""
        squares = (np.arange(len(self.pixels)) - self.mean) ** 2
        return math.sqrt(np.average(squares, weights=self.pixels))

    @property
    def min(self) -> int:
        """Smallest number of positive channels of a pixel."""
        return int(np.flatnonzero(self.pixels)[0])

    @property
    def max(self) -> int:
        """Largest number of positive channels of a pixel."""
        return int(np.flatnonzero(self.pixels)[-1])

    @property
    def share_below(self) -> float:
        """Share of pixels below the threshold, where ReLU is not invertible; in 0..1."""
        return float(self.pixels[: self.threshold].sum() / self.pixels.sum())


def activation_patterns(model: VisionModel, images: Sequence[Image]) -> tuple[ActivationPattern, ...]:
    """Counts the positive channels of every expansion while a model runs on images.

    Args:
        model: Model on mobilenet_v2; it is left in evaluation mode. For an untrained network as in the paper, set
            ``zero_init_residual`` to false.
        images: ``(H, W, 3)`` uint8 RGB images of any size.

    Returns:
        A pattern for each block with an expansion, in order of execution.

    Raises:
        UserError: The backbone has no expansions, or there are no images.
    """
    expansions = {
        name: layer.expand
        for name, layer in model.backbone.layers.items()
        if isinstance(layer, InvertedResidual) and isinstance(layer.expand, ConvNormAct)
    }
    if not expansions:
        name = model.spec.backbone["name"]
        raise UserError(f"Backbone '{name}' has no expansions; use mobilenet_v2.")
    if not images:
        raise UserError("There are no images to count channels on; give at least one.")
    pixels = {name: np.zeros(expand.conv.out_channels + 1, np.int64) for name, expand in expansions.items()}

    def count(name: str, _expand: nn.Module, _inputs: object, output: Tensor) -> None:
        positive = (output > 0).sum(dim=1).flatten()
        pixels[name] += torch.bincount(positive, minlength=len(pixels[name])).cpu().numpy()

    hooks = [expand.register_forward_hook(partial(count, name)) for name, expand in expansions.items()]
    try:
        model.eval()
        for start in range(0, len(images), BATCH):
            inputs = [model.preprocess(image)[0] for image in images[start : start + BATCH]]
            with torch.inference_mode():
                model(images_to_tensor(inputs).to(model.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(ActivationPattern(name, expand.conv.in_channels, pixels[name]) for name, expand in expansions.items())
