"""ExportNetwork: the graph that is exported, with norms and scaling folded into the weights."""

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mbv2kit.imaging.postprocess import OUTPUT_NAMES, output_name, with_head
from mbv2kit.models.vision_model import VisionModel


class ExportNetwork(nn.Module):
    """A model with its batch norms and its normalization folded into the convolutions.

    The division by ``std`` goes into the weights of the first convolution. The subtraction of ``mean`` stays: the first
    convolution must pad with the mean, which only the subtraction before it turns into zeros.

    Args:
        model: Model in evaluation mode; it is copied.
        size: Height and width of the inputs; None takes those of the model.

    Attributes:
        size: Height and width of the inputs.
        output_names: Names of the outputs, in the order in which ``forward`` returns them.
        nms_options: The NMS options of each detector.
        input_type: Type of the inputs' numbers.
    """

    mean: Tensor

    def __init__(self, model: VisionModel, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        copy = deepcopy(model).float().eval()
        fold_norms(copy)
        self.size = model.preprocess.size if size is None else size
        self.input_type = model.preprocess.input_type
        self.register_buffer("mean", copy.mean)
        self.backbone, self.heads, self.nms_options = copy.backbone, copy.heads, copy.nms_options
        self.output_names = tuple(
            output_name(name, key) for name, head in self.heads.items() for key in OUTPUT_NAMES[head.task]
        )
        first = next(part for part in self.backbone.modules() if isinstance(part, nn.Conv2d))
        with torch.no_grad():
            first.weight.div_(copy.std)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Computes the outputs for ``(B, H, W, 3)`` RGB in 0..255, in the order of ``output_names``."""
        return self.head_outputs(self.backbone(images.permute(0, 3, 1, 2).float() - self.mean))

    def head_outputs(self, features: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Computes the outputs from the backbone's maps, for networks that compute the maps in another way."""
        outputs: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            outputs |= with_head(name, head.outputs(head(features), self.size))
        return tuple(outputs[name] for name in self.output_names)

    def example(self, batch: int = 1) -> Tensor:
        """Returns an input to trace with, ``(batch, H, W, 3)`` of :attr:`input_type`."""
        return torch.zeros((batch, *self.size, 3), dtype=getattr(torch, self.input_type))


def fold_norms(model: nn.Module) -> None:
    """Folds every batch norm into the convolution that it directly follows in a sequence, in place."""
    for part in list(model.modules()):
        if isinstance(part, nn.Sequential):
            for (_, conv), (name, norm) in pairwise(list(part.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    _fold(conv, norm)
                    setattr(part, name, nn.Identity())


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    # In double precision, the weights are rounded only once.
    folded = fuse_conv_bn_eval(conv.double(), norm.double())
    conv.weight, conv.bias = folded.weight, folded.bias
    conv.float()
