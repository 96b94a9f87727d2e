"""Image arrays as tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mbv2kit.structures import Image


def images_to_tensor(images: Sequence[Image]) -> Tensor:
    """Stacks ``(H, W, 3)`` uint8 arrays of one size into ``(B, 3, H, W)`` uint8, channels last in memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
