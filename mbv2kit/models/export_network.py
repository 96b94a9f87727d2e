"""The network as it is exported: uint8 images in, answers out, everything that is fixed folded into the weights."""

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mbv2kit.heads import Head
from mbv2kit.imaging.postprocess import OUTPUT_NAMES
from mbv2kit.models.vision_model import VisionModel


class ExportNetwork(nn.Module):
    """A model with its batch norms and its normalization folded into the convolutions, and its answers in the graph.

    The division by ``std`` goes into the weights of the first convolution. The subtraction of ``mean`` stays: what the
    first convolution pads with must be the mean, and only a subtraction before it makes zeros of that.

    Args:
        model: In evaluation mode; it is copied.
        size: Height and width of the inputs.

    Attributes:
        size: As given.
        output_names: Names of the answers, in the order in which ``forward`` gives them.
        nms_options: Which boxes a detector shows; None where there is no detector.
    """

    mean: Tensor

    def __init__(self, model: VisionModel, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        copy = deepcopy(model).float().eval()
        fold_norms(copy)
        self.size = model.input.size if size is None else size
        self.register_buffer("mean", copy.mean)
        self.backbone, self.heads = copy.backbone, copy.heads
        self.output_names = tuple(name for head in self._heads() for name in OUTPUT_NAMES[head.task])
        self.nms_options = next((head.nms_options for head in self._heads() if head.nms_options is not None), None)
        first = next(part for part in self.backbone.modules() if isinstance(part, nn.Conv2d))
        with torch.no_grad():
            first.weight.div_(copy.std)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the answers to ``(B, H, W, 3)`` uint8 RGB, in the order of ``outputs``."""
        return self.head_outputs(self.backbone(images.permute(0, 3, 1, 2).float() - self.mean))

    def head_outputs(self, features: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Computes the answers from the backbone's maps, for networks that come to these in a way of their own."""
        outputs: dict[str, Tensor] = {}
        for head in self._heads():
            outputs |= head.outputs(head(features), self.size)
        return tuple(outputs[name] for name in self.output_names)

    def example(self, batch: int = 1) -> Tensor:
        """Returns an input to trace with, ``(batch, H, W, 3)`` uint8."""
        return torch.zeros((batch, *self.size, 3), dtype=torch.uint8)

    def _heads(self) -> list[Head]:
        return [head for head in self.heads.values() if isinstance(head, Head)]


def fold_norms(model: nn.Module) -> None:
    """Folds every batch norm into the convolution that it directly follows in a sequence, in place."""
    for part in list(model.modules()):
        if isinstance(part, nn.Sequential):
            for (_, conv), (name, norm) in pairwise(list(part.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    _fold(conv, norm)
                    setattr(part, name, nn.Identity())


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    # Folded in double precision, the weights are rounded once.
    folded = fuse_conv_bn_eval(conv.double(), norm.double())
    conv.weight, conv.bias = folded.weight, folded.bias
    conv.float()
