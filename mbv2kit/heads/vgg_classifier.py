"""The classifier of VGG, Simonyan and Zisserman, arXiv 1409.1556 (Table 1): three fully connected layers."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mbv2kit.heads.classifier import Classifier
from mbv2kit.heads.registry import HEADS, Raw
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import initialize
from mbv2kit.schema.rules import Fraction

# An input of 224 pixels a side has a last map of 7 x 7; other maps are averaged to that size.
POOLED = 7
HIDDEN_CHANNELS = 4096


@HEADS.register("vgg_classifier")
class VGGClassifier(Classifier):
    """Predicts one class for the whole image, from 7 x 7 cells of the last map and two hidden layers of 4096.

    Raw tensors, loss and predictions are those of :class:`~mbv2kit.heads.classifier.Classifier`.

    Args:
        feature_info: Feature maps of the backbone; the last one is read.
        num_classes: Number of classes.
        dropout: Fraction of each hidden layer that is set to zero in training; the paper has 0.5 (Section 3.1).
        label_smoothing: Fraction of the target that is spread over all classes.
        background: Whether there is an internal background class, which is never predicted.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        feature_info: Sequence[FeatureInfo],
        num_classes: int,
        dropout: Fraction = 0.5,
        label_smoothing: Fraction = 0.0,
        background: bool = False,
    ) -> None:
        super().__init__(feature_info, num_classes, dropout, label_smoothing, background)
        self.hidden_1 = nn.Linear(feature_info[-1].channels * POOLED * POOLED, HIDDEN_CHANNELS)
        self.hidden_2 = nn.Linear(HIDDEN_CHANNELS, HIDDEN_CHANNELS)
        self.linear = nn.Linear(HIDDEN_CHANNELS, num_classes + self.background)
        initialize(self)

    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Pools ``(B, C, H, W)`` to ``(B, C, 7, 7)`` and scores the classes."""
        cells = F.adaptive_avg_pool2d(features[self.features[0]], POOLED).flatten(1)
        hidden = self.dropout(self.hidden_1(cells).relu())
        hidden = self.dropout(self.hidden_2(hidden).relu())
        return {"logits": self.linear(hidden)}
