"""The network and input size behind each published number.

The keys of :data:`CASES` are ids of rows and numbers in ``published.yaml``; a number's own id takes precedence over its
row's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from mbv2kit.analysis.complexity import Complexity, LayerComplexity, graph_complexity
from mbv2kit.analysis.contractions import fold_norms
from mbv2kit.analysis.graph import Graph, build_on_meta, trace
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.lab.paper.published import Kind
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.tta import SCALES, scaled_side
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Task

Size = tuple[int, int]
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A backbone with a head, by names and options of the registries."""

    task: Task
    backbone: str
    head: str
    classes: int
    backbone_options: Options = ()
    head_options: Options = ()

    def spec(self, size: Size) -> ModelSpec:
        """Returns the specification of a model with an input of (height, width) ``size`` pixels."""
        return ModelSpec(
            backbone={"name": self.backbone, **dict(self.backbone_options)},
            heads={self.task: {"name": self.head, **dict(self.head_options)}},
            class_names={self.task: tuple(map(str, range(self.classes)))},
            input=Preprocess(size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network and how it runs on an image, as in a row of the paper.

    Attributes:
        network: The network.
        size: Height and width of the input.
        scales: Scales of the passes over one image, relative to ``size``; parameters count once.
        mirrored: Whether each pass also runs on the mirrored image.
        part: Prefix of the names of the modules that count; empty for all.
        folded: Whether batch norms are folded into the preceding convolutions.
    """

    network: Network
    size: Size
    scales: tuple[float, ...] = (1.0,)
    mirrored: bool = False
    part: str = ""
    folded: bool = False

    def count(self, kind: Kind) -> float:
        """Returns the number of parameters or multiply-adds."""
        if kind in ("params", "params_nobn"):
            cost = cost_of(self.network, self.size, folded=self.folded)
            left_out = sum(layer.norm_parameters for layer in self._layers(cost)) if kind == "params_nobn" else 0
            return sum(layer.parameters for layer in self._layers(cost)) - left_out
        counted = 0
        for scale in self.scales:
            height, width = (scaled_side(side, scale) for side in self.size)
            cost = cost_of(self.network, (height, width), space_to_batch=kind == "madds_s2b")
            counted += sum(layer.madds for layer in self._layers(cost))
        return counted * (2 if self.mirrored else 1)

    def _layers(self, cost: Complexity) -> list[LayerComplexity]:
        return [layer for layer in cost.layers if layer.module.startswith(self.part)]


@cache
def build(network: Network) -> VisionModel:
    """Builds a network on the meta device, without weights."""
    return build_on_meta(network.spec((224, 224)))


@cache
def graph_of(network: Network, size: Size) -> Graph:
    """Traces one pass of a network; cached, because several counts read the same graph."""
    return trace(build(network), size)


@cache
def cost_of(network: Network, size: Size, *, folded: bool = False, space_to_batch: bool = False) -> Complexity:
    """Counts the parameters of a network and the multiply-adds of one pass; see :mod:`mbv2kit.analysis.complexity`."""
    graph = graph_of(network, size)
    return graph_complexity(fold_norms(graph) if folded else graph, space_to_batch=space_to_batch)


def classifier(backbone: str, side: int = 224, *, background: bool = False, **options: Any) -> Case:
    """Returns a classifier of ImageNet's 1000 classes, on request with a background output as in TensorFlow."""
    network = Network(
        task="classification",
        backbone=backbone,
        head="classifier",
        classes=1000,
        backbone_options=tuple(options.items()),
        head_options=(("background", background),),
    )
    return Case(network=network, size=(side, side))


def detector(head: str, backbone: str, side: int, *, classes: int = 80, **head_options: Any) -> Case:
    """Returns a detector, by default of COCO's classes, to which some heads add a background."""
    network = Network(
        task="detection", backbone=backbone, head=head, classes=classes, head_options=tuple(head_options.items())
    )
    return Case(network=network, size=(side, side))


def segmenter(backbone: str, output_stride: int, *, aspp: bool, classes: int = 21) -> Case:
    """Returns a DeepLabv3 for 513 x 513 pixels, by default for Pascal VOC's classes and background.

    On MobileNetV2 it reads the map before the last 1 x 1 convolution (Section 6.3), on other backbones the last map.
    """
    feature = "second_last" if backbone == "mobilenet_v2" else "last"
    network = Network(
        task="segmentation",
        backbone=backbone,
        head="deeplab_v3",
        classes=classes,
        backbone_options=(("output_stride", output_stride),),
        head_options=(("aspp", aspp), ("feature", feature)),
    )
    return Case(network=network, size=(513, 513))


def multi_scale(case: Case, scales: tuple[float, ...] = SCALES) -> Case:
    """Returns the case with two passes at each scale, one of them mirrored (MF in Table 7)."""
    return replace(case, scales=scales, mirrored=True)


# Resolutions of each width in Figure 5.
SIDES = (224, 192, 160, 128, 96)
FIGURE_5 = {1.4: (224,), 1.3: (224,), 1.0: SIDES, 0.75: SIDES, 0.5: SIDES, 0.35: SIDES}
FIGURE_5_V1 = dict.fromkeys((1.0, 0.75, 0.5, 0.25), (224, 192, 160, 128))

CITYSCAPES = {
    stride: replace(segmenter("mobilenet_v2", stride, aspp=False, classes=19), size=(1025, 2049)) for stride in (16, 8)
}

CASES: Mapping[str, Case] = {
    "section4/madds": classifier("mobilenet_v2"),
    "section4/params": classifier("mobilenet_v2"),
    "section4/madds_min": classifier("mobilenet_v2", 96, width=0.35),
    "section4/madds_max": classifier("mobilenet_v2", width=1.4),
    "section4/params_min": classifier("mobilenet_v2", width=0.35),
    "section4/params_max": classifier("mobilenet_v2", width=1.4),
    "table4/mobilenet_v1": classifier("mobilenet_v1"),
    "table4/shufflenet_1.5": classifier("shufflenet_v1", width=1.5, groups=3),
    "table4/shufflenet_2": classifier("shufflenet_v1", width=2.0, groups=3),
    "table4/nasnet_a": classifier("nasnet_a"),
    "table4/mobilenet_v2": classifier("mobilenet_v2"),
    "table4/mobilenet_v2_1.4": classifier("mobilenet_v2", width=1.4),
    **{
        f"figure5/{width}@{side}": classifier("mobilenet_v2", side, width=width)
        for width, sides in FIGURE_5.items()
        for side in sides
    },
    **{
        f"figure5_v1/{width}@{side}": classifier("mobilenet_v1", side, width=width, background=True)
        for width, sides in FIGURE_5_V1.items()
        for side in sides
    },
    "table5/ssd": replace(detector("ssd", "mobilenet_v2", 320), part="heads."),
    "table5/ssdlite": replace(detector("ssdlite", "mobilenet_v2", 320), part="heads."),
    "table6/ssd300": detector("ssd300", "vgg16", 300),
    "table6/ssd512": detector("ssd512", "vgg16", 512),
    # The printed parameters are those of one configuration, the multiply-adds those of another.
    "table6/yolo_v2/params": detector("yolo_v2", "darknet_19", 416, classes=20, passthrough_channels=64),
    "table6/yolo_v2": detector("yolo_v2", "darknet_19", 416, passthrough_channels=None),
    "table6/mobilenet_v1_ssdlite": detector("ssdlite", "mobilenet_v1", 320),
    "table6/mobilenet_v2_ssdlite": detector("ssdlite", "mobilenet_v2", 320),
    "table6/openvino": replace(detector("ssdlite", "mobilenet_v2", 300, classes=90), folded=True),
    "table7/mobilenet_v1_os16_aspp": segmenter("mobilenet_v1", 16, aspp=True),
    "table7/mobilenet_v1_os8_aspp_mf": multi_scale(segmenter("mobilenet_v1", 8, aspp=True)),
    "table7/mobilenet_v2_os16_aspp": segmenter("mobilenet_v2", 16, aspp=True),
    "table7/mobilenet_v2_os8_aspp_mf": multi_scale(segmenter("mobilenet_v2", 8, aspp=True)),
    "table7/mobilenet_v2_os16": segmenter("mobilenet_v2", 16, aspp=False),
    "table7/mobilenet_v2_os8_mf": multi_scale(segmenter("mobilenet_v2", 8, aspp=False)),
    "table7/resnet_101_os16_aspp": segmenter("resnet_101_beta", 16, aspp=True),
    "table7/resnet_101_os8_aspp_mf": multi_scale(segmenter("resnet_101_beta", 8, aspp=True)),
    "deeplab_zoo/cityscapes_os16": CITYSCAPES[16],
    "deeplab_zoo/cityscapes_os8_mf": multi_scale(CITYSCAPES[8], (0.75, 1.0, 1.25)),
    "deeplab_zoo/voc_os8_mf": multi_scale(segmenter("mobilenet_v2", 8, aspp=False)),
}
