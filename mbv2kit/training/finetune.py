"""Which parts of a backbone are frozen in training, and how fast the rest learns."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from mbv2kit.models.vision_model import VisionModel


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """How the backbone is fine-tuned.

    Attributes:
        frozen_layers: Layer up to which weights and statistics stay as they are, such as ``layer_7``. None freezes no
            layer.
        frozen_norms: Whether all batch norms of the backbone keep their statistics; scale and shift are trained.
        backbone_lr: Factor on the learning rate of the backbone.
        train_only: Heads to train; the backbone and the other heads stay as they are, bit for bit. None trains all.
    """

    frozen_layers: str | None = None
    frozen_norms: bool = False
    backbone_lr: float = 1.0
    train_only: Sequence[str] | None = None

    def freeze(self, model: VisionModel) -> list[nn.Module]:
        """Turns off the gradients of what is frozen.

        Returns:
            The modules that must stay in evaluation mode while the model trains.

        Raises:
            UserError: The backbone has no such layer.
        """
        still: list[nn.Module] = []
        if self.frozen_layers is not None:
            for layer in model.backbone.layers_until(self.frozen_layers):
                still.append(layer.requires_grad_(False))
        if self.train_only is not None:
            kept = [head for name, head in model.heads.items() if name not in self.train_only]
            still += [part.requires_grad_(False) for part in (model.backbone, *kept)]
        if self.frozen_norms:
            still += [part for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d)]
        return still
