"""What every backbone must do, asked by the tests of several."""

import torch
from torch import Tensor

from mbv2kit.backbones import Backbone
from mbv2kit.heads import create_head


def assert_a_gradient_reaches_every_number(backbone: Backbone, images: Tensor) -> None:
    """Sends the gradient of the deepest map back; the backbone is in training mode."""
    last = list(backbone(images).values())[-1]
    (last * torch.randn_like(last)).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def assert_a_head_reads(backbone: Backbone, head: str, features: tuple[str, ...]) -> None:
    """Builds a head that must read just these maps, and runs both; the backbone is on the meta device."""
    with torch.device("meta"):
        part = create_head(head, backbone.feature_info, 3)
    assert part.features == features
    backbone.select(part.features)
    part(backbone(torch.empty(2, 3, 97, 128, device="meta")))
