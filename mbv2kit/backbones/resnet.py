"""Deep Residual Learning for Image Recognition. He et al., 2015, arXiv 1512.03385; built from torchvision's modules."""

from collections import OrderedDict
from functools import partial

from torch import nn

from mbv2kit.backbones.registry import BACKBONES, Backbone, check_single_width
from mbv2kit.backbones.strides import check_output_stride
from mbv2kit.nn.features import FeatureInfo


@BACKBONES.register("resnet_101")
class ResNet101(Backbone):
    """The network of 101 layers in Table 1 without its classifier: five feature maps.

    ``stem`` is the first convolution with the max pooling behind it, ``stage_1`` to ``stage_4`` are the paper's conv2_x
    to conv5_x. A block with a stride has it in its 3 x 3 convolution, as torchvision's weights need it, where the paper
    has it in the first 1 x 1.

    Args:
        width: 1.0; the paper has no other.
        output_stride: 8, 16 or 32. A block that would pass it runs at stride 1 with the dilation so far; the blocks
            *behind* it get the dilation that makes up for it, so the maps equal those of the strided network.
        norm_eps: Epsilon of batch normalization.
        norm_momentum: Share of the newest batch in the running statistics.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self, width: float = 1.0, output_stride: int = 32, norm_eps: float = 1e-5, norm_momentum: float = 0.1
    ) -> None:
        # Takes a second to import, which every start of every tool would wait for.
        from torchvision.models import resnet101

        super().__init__()
        check_single_width(width, "ResNet-101")
        check_output_stride(output_stride)
        network = resnet101(
            replace_stride_with_dilation=[False, output_stride < 16, output_stride < 32],
            norm_layer=partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum),
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
