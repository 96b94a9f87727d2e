"""Deep Residual Learning for Image Recognition. He et al., 2015, arXiv 1512.03385; built from torchvision's modules."""

from collections import OrderedDict

from torch import nn

from mbv2kit.backbones.registry import BACKBONES, Backbone
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import NormOptions
from mbv2kit.schema.rules import Stride


@BACKBONES.register("resnet_101")
class ResNet101(Backbone):
    """The network of 101 layers in Table 1 without its classifier: five feature maps.

    ``stem`` is the first convolution with the following max pooling, ``stage_1`` to ``stage_4`` are the paper's conv2_x
    to conv5_x. The stride of a block is in its 3 x 3 convolution, as torchvision's weights need it; in the paper it is
    in the first 1 x 1 convolution.

    Args:
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32. Below 32, strides become dilation.
        norm: How batch normalization computes.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self, output_stride: Stride = 32, norm: NormOptions = NormOptions(norm_eps=1e-5, norm_momentum=0.1)
    ) -> None:
        # The import takes a second, which every start of every tool would spend.
        from torchvision.models import resnet101

        super().__init__()
        network = resnet101(
            replace_stride_with_dilation=[False, output_stride < 16, output_stride < 32],
            norm_layer=norm,
        )
        stem = OrderedDict(conv=network.conv1, norm=network.bn1, act=network.relu, pool=network.maxpool)
        self.layers = nn.ModuleDict(
            {
                "stem": nn.Sequential(stem),
                "stage_1": network.layer1,
                "stage_2": network.layer2,
                "stage_3": network.layer3,
                "stage_4": network.layer4,
            }
        )
        self.feature_info = (
            FeatureInfo("stem", 64, 4),
            FeatureInfo("stage_1", 256, 4),
            FeatureInfo("stage_2", 512, 8),
            FeatureInfo("stage_3", 1024, min(16, output_stride)),
            FeatureInfo("stage_4", 2048, output_stride),
        )
        self.selected = tuple(self.layers)
