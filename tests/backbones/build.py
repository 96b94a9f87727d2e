"""Backbones as tests need them: without numbers, or with numbers that all matter."""

import torch
from torch import Tensor, nn

from mbv2kit.backbones import Backbone, create_backbone
from tests.norms import randomize_norms

# The last norms of branches that are added up; with larger weights the sums would grow with every block.
_ADDED = ("bn3", "expand.norm")


def on_meta(name: str, **options: object) -> Backbone:
    """Builds a backbone that knows shapes but holds no numbers, in evaluation mode."""
    with torch.device("meta"):
        return create_backbone(name, **options).eval()


def randomized(name: str, **options: object) -> Backbone:
    """Builds a float64 backbone in evaluation mode whose every number matters; its maps are of order one."""
    backbone = create_backbone(name, **options).double().eval()
    randomize_norms(backbone)
    for path, part in backbone.named_modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in")
            if part.bias is not None:
                nn.init.normal_(part.bias, std=0.3)
        elif isinstance(part, nn.BatchNorm2d) and path.endswith(_ADDED):
            nn.init.uniform_(part.weight, 0.1, 0.5)
    return backbone


def with_weights_of(other: Backbone, name: str, **options: object) -> Backbone:
    """Builds a float64 backbone in evaluation mode with the weights of another."""
    backbone = create_backbone(name, **options).double().eval()
    backbone.load_state_dict(other.state_dict())
    return backbone


def maps_of(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
    """Computes the maps without gradients."""
    with torch.no_grad():
        maps: dict[str, Tensor] = backbone(images)
        return maps
