"""Very Deep Convolutional Networks for Large-Scale Image Recognition. Simonyan and Zisserman, 2014, arXiv 1409.1556."""

from collections import OrderedDict

from torch import nn

from mbv2kit.backbones.registry import BACKBONES, Backbone
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import initialize

# Configuration D of Table 1: channels and number of 3 x 3 convolutions between two max poolings.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


@BACKBONES.register("vgg16")
class VGG16(Backbone):
    """The network of configuration D without its classifier: six feature maps, no batch normalization.

    ``conv1_2``, ``conv2_2``, ``conv3_3``, ``conv4_3`` and ``conv5_3`` are the last convolutions before each max
    pooling, after their ReLU; ``pool5`` is the last max pooling.

    Args:
        ceil_pooling: Whether the max poolings keep an odd last row or column, as in SSD and in Caffe, the framework of
            the authors' weights. Otherwise, as in torchvision, a map has ``floor(H / stride)`` rows and an input needs
            at least 32 pixels a side. Both are equal for multiples of 32.
    """

    free_options = Backbone.free_options | {"ceil_pooling"}

    def __init__(self, ceil_pooling: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        features = []
        in_channels = 3
        for stage, (channels, convolutions) in enumerate(STAGES, start=1):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            if stage > 1:
                parts[f"pool{stage - 1}"] = nn.MaxPool2d(2, ceil_mode=ceil_pooling)
            for number in range(1, convolutions + 1):
                parts[f"conv{stage}_{number}"] = nn.Conv2d(in_channels, channels, 3, padding=1)
                parts[f"relu{stage}_{number}"] = nn.ReLU(inplace=True)
                in_channels = channels
            name = f"conv{stage}_{convolutions}"
            self.layers[name] = nn.Sequential(parts)
            features.append(FeatureInfo(name, channels, 2 ** (stage - 1)))
        self.layers["pool5"] = nn.MaxPool2d(2, ceil_mode=ceil_pooling)
        features.append(FeatureInfo("pool5", in_channels, 32))
        self.feature_info = tuple(features)
        self.selected = tuple(self.layers)
        initialize(self)
