"""How many channels of each expansion are positive behind ReLU6: the activation patterns of Figure 7.

Where a pixel has as many positive channels as its bottleneck has channels, or more, ReLU can be inverted (the paper's
appendix): with its expansion by t that is a share of 1/t. That their rows of weights are independent is taken for
granted here. ReLU6 also cuts off at 6, which the figure leaves aside, and so does this count.
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
    """How many channels of one expansion are positive, over all pixels of some images.

    Attributes:
        layer: Name of the block in the backbone, such as ``layer_3``.
        threshold: Channels of the bottleneck that is expanded: as many must be positive for ReLU to be invertible.
        pixels: ``(n + 1,)`` number of pixels by how many of the n channels are positive.
    """

    layer: str
    threshold: int
    pixels: NDArray[np.int64]

    @property
    def channels(self) -> int:
        """The channels of the expansion, n."""
        return len(self.pixels) - 1

    @property
    def mean(self) -> float:
        """Positive channels in the mean over the pixels, in 0..n."""
        return float(np.average(np.arange(len(self.pixels)), weights=self.pixels))

    @property
    def deviation(self) -> float:
        """Standard deviation of the positive channels from pixel to pixel."""
        squares = (np.arange(len(self.pixels)) - self.mean) ** 2
        return math.sqrt(np.average(squares, weights=self.pixels))

    @property
    def min(self) -> int:
        """Positive channels of the pixel that has the fewest."""
        return int(np.flatnonzero(self.pixels)[0])

    @property
    def max(self) -> int:
        """Positive channels of the pixel that has the most."""
        return int(np.flatnonzero(self.pixels)[-1])

    @property
    def share_below(self) -> float:
        """Share of the pixels that are under the threshold, in 0..1: there ReLU is not invertible."""
        return float(self.pixels[: self.threshold].sum() / self.pixels.sum())


def activation_patterns(model: VisionModel, images: Sequence[Image]) -> tuple[ActivationPattern, ...]:
    """Counts the positive channels of every expansion while a model sees images.

    Args:
        model: On mobilenet_v2; it is left in evaluation mode. An untrained network like the paper's has
            ``zero_init_residual`` off.
        images: ``(H, W, 3)`` uint8 RGB, of any size; each goes in by the model's input rule.

    Returns:
        A pattern for each block that expands, in the order in which they run.

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
        raise UserError(f"Backbone '{name}' has no expansions whose channels could be counted; take mobilenet_v2.")
    if not images:
        raise UserError("Channels are counted on images, and there are none; give at least one.")
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
