"""The least network that a run can have: one convolution and its norm, on means of 8 x 8 pixels."""

from torch import Tensor, nn

from mbv2kit.backbones import Backbone
from mbv2kit.nn.features import FeatureInfo


class Little(Backbone):
    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        self.feature_info = (FeatureInfo("little", 8, 32),)
        self.selected = ("little",)
        self.layers = nn.ModuleDict(
            {"little": nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"little": self.layers["little"](nn.functional.avg_pool2d(images, 8))}
