"""What of a model stays as it is while the rest is trained."""

from dataclasses import dataclass

from torch import nn

from mbv2kit.errors import UserError
from mbv2kit.models.vision_model import VisionModel


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """How gently the backbone is trained.

    Attributes:
        frozen_layers: The backbone's layers up to this one, such as ``layer_7``, keep weights and statistics; None for
            no such layer.
        frozen_norms: Whether all batch norms of the backbone keep their statistics; scale and shift are trained.
        backbone_lr: Factor on the learning rate of the backbone.
    """

    frozen_layers: str | None = None
    frozen_norms: bool = False
    backbone_lr: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.backbone_lr, int | float) or not self.backbone_lr >= 0:
            raise UserError(f"finetune.backbone_lr must be a factor from 0 up, got {self.backbone_lr}.")

    def freeze(self, model: VisionModel) -> list[nn.Module]:
        """Stops the gradients of the frozen layers.

        Returns:
            The modules that must stay in evaluation mode while the model is trained.

        Raises:
            UserError: The backbone has no such layer.
        """
        still: list[nn.Module] = []
        if self.frozen_layers is not None:
            for layer in model.backbone.layers_until(self.frozen_layers):
                still.append(layer.requires_grad_(False))
        if self.frozen_norms:
            still += [part for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d)]
        return still
