"""The classifier of MobileNetV2 (Table 2): average pooling, dropout and one linear layer on the last map."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.heads.registry import HEADS, Head, Raw, Targets
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import initialize
from mbv2kit.schema.rules import Fraction


@HEADS.register("classifier")
class Classifier(Head):
    """Predicts one class for the whole image.

    Raw tensors: ``logits`` ``(B, num_classes)``, or ``(B, num_classes + 1)`` with the background first.

    Args:
        feature_info: Feature maps of the backbone; the last one is read.
        num_classes: Number of classes.
        dropout: Fraction of the pooled channels that is set to zero in training.
        label_smoothing: Fraction of the target that is spread over all classes; the TensorFlow recipe has 0.1.
        background: Whether there is an internal background class, which is never predicted; TensorFlow's ImageNet
            models have one.

    Raises:
        UserError: An argument is out of range.
    """

    task = "classification"

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        dropout: Fraction = 0.2,
        label_smoothing: Fraction = 0.0,
        background: bool = False,
    ) -> None:
        super().__init__()
        self.features = (feature_info[-1].name,)
        self.label_smoothing = label_smoothing
        self.dropout = nn.Dropout(dropout)
        self.background = int(background)
        self.linear = nn.Linear(feature_info[-1].channels, num_classes + self.background)
        initialize(self)

    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Pools ``(B, C, H, W)`` and scores the classes."""
        pooled = features[self.features[0]].mean(dim=(2, 3))
        return {"logits": self.linear(self.dropout(pooled))}

    def loss(self, raw: Raw, targets: Targets) -> dict[str, Tensor]:
        """Computes cross-entropy with label smoothing; reads ``label``."""
        logits, labels = raw["logits"].float(), targets["label"] + self.background
        return {"classification": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}

    def outputs(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """Computes ``probabilities``, without that of the background."""
        return {"probabilities": raw["logits"].float().softmax(dim=-1)[:, self.background :]}
