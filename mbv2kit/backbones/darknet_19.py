"""YOLO9000: Better, Faster, Stronger. Redmon and Farhadi, CVPR 2017, arXiv 1612.08242: its classifier's network."""

from functools import partial

from torch import nn

from mbv2kit.backbones.registry import BACKBONES, Backbone
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.nn.layers import ConvNormAct, ConvStyle, NormOptions, initialize

# Table 6 without its last convolution: filters and kernel sizes of the convolutions between two max poolings.
STAGES = (
    ((32, 3),),
    ((64, 3),),
    ((128, 3), (64, 1), (128, 3)),
    ((256, 3), (128, 1), (256, 3)),
    ((512, 3), (256, 1), (512, 3), (256, 1), (512, 3)),
    ((1024, 3), (512, 1), (1024, 3), (512, 1), (1024, 3)),
)


@BACKBONES.register("darknet_19")
class Darknet19(Backbone):
    """The network of Table 6 without its classifier: every row of the table is a feature map.

    ``conv1`` to ``conv18`` are the convolutions, each after its batch norm and leaky ReLU; ``pool1`` to ``pool5`` are
    the max poolings. YOLOv2 reads ``conv13``, the last at stride 16, and ``conv18``, the last of all.

    The poolings keep an odd last row or column, so that a map has ``ceil(H / stride)`` rows.

    Args:
        norm: How batch normalization computes.
    """

    def __init__(self, norm: NormOptions = NormOptions(norm_eps=1e-5, norm_momentum=0.03)) -> None:
        super().__init__()
        style = ConvStyle(norm=norm, activation=partial(nn.LeakyReLU, 0.1, inplace=True))
        self.layers = nn.ModuleDict()
        features = []
        channels, convolutions = 3, 0
        for halvings, stage in enumerate(STAGES):
            if halvings > 0:
                name = f"pool{halvings}"
                self.layers[name] = nn.MaxPool2d(2, ceil_mode=True)
                features.append(FeatureInfo(name, channels, 2**halvings))
            for filters, kernel_size in stage:
                convolutions += 1
                name = f"conv{convolutions}"
                self.layers[name] = ConvNormAct(channels, filters, kernel_size, style=style)
                channels = filters
                features.append(FeatureInfo(name, channels, 2**halvings))
        self.feature_info = tuple(features)
        self.selected = tuple(self.layers)
        initialize(self)
