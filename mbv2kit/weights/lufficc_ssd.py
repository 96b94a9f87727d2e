"""Reads the detector of lufficc/SSD on MobileNetV2.

The table of names follows its ``ssd/modeling/backbone/mobilenet.py`` and ``ssd/modeling/box_head/box_predictor.py``,
the settings ``configs/mobilenet_v2_ssd320_voc0712.yaml`` and ``ssd/config/defaults.py``.
"""

from collections.abc import Mapping

from torch import Tensor

from mbv2kit.weights.published import Published
from mbv2kit.weights.pytorch_detector import HEAD, MAPS, Detector, prior_shapes, read_detector
from mbv2kit.weights.torchvision import MOBILENET_V2

_SIDE = 320
_EXTRA = {
    "conv.0.0": "0.conv",
    "conv.0.1": "0.norm",
    "conv.1.0": "1.depthwise.conv",
    "conv.1.1": "1.depthwise.norm",
    "conv.2": "1.pointwise.conv",
    "conv.3": "1.pointwise.norm",
}
_PREDICTOR = "box_head.predictor."
_PREDICTIONS = {f"{_PREDICTOR}cls_headers": f"{HEAD}.classifiers", f"{_PREDICTOR}reg_headers": f"{HEAD}.regressors"}

DETECTOR = Detector(
    name="lufficc/SSD's mobilenet_v2_ssd320",
    modules={
        **{f"backbone.{theirs}": ours for theirs, ours in MOBILENET_V2.items() if theirs.startswith("features.")},
        **{
            f"backbone.extras.{extra}.{theirs}": f"{HEAD}.extras.{extra}.{ours}"
            for extra in range(MAPS - 2)
            for theirs, ours in _EXTRA.items()
        },
        **{
            f"{theirs}.{level}.conv.{place}": f"{ours}.{level}.{part}"
            for theirs, ours in _PREDICTIONS.items()
            for level in range(MAPS - 1)
            for place, part in ((0, "0.conv"), (1, "0.norm"), (3, "1"))
        },
        **{f"{theirs}.{MAPS - 1}": f"{ours}.{MAPS - 1}" for theirs, ours in _PREDICTIONS.items()},
    },
    backbone={"name": "mobilenet_v2", "norm_eps": 1e-5, "norm_momentum": 0.1},
    head={
        "name": "ssdlite",
        "maps": ["layer_14", "layer_19"],
        "bottlenecks": True,
        "extra_channels": [512, 256, 256, 64],
        "anchors": prior_shapes((60, 105, 150, 195, 240, 285, 330), _SIDE, clipped=True),
        # The steps of the other maps, 16, 32, 64, 160 and 320 pixels, share the input evenly.
        "anchor_steps": [None, None, None, 107.0, None, None],
        "score_threshold": 0.01,
        "nms_iou": 0.45,
        "max_detections": 100,
        "norm_eps": 1e-5,
        "norm_momentum": 0.1,
    },
    side=_SIDE,
    mean=(123.0, 117.0, 104.0),
    std=(1.0, 1.0, 1.0),
)


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether the names of tensors are those of a detector of lufficc/SSD, supported or not."""
    return any(name.startswith(_PREDICTOR) for name in tensors)


def read(tensors: Mapping[str, Tensor], *, source: str, sha256: str) -> Published:
    """Translates the tensors of :data:`DETECTOR`.

    Args:
        tensors: Tensors by the names of lufficc/SSD.
        source: The file that the tensors were read from.
        sha256: Its hash.

    Raises:
        UserError: The tensors belong to another network.
    """
    return read_detector([DETECTOR], tensors, source=source, sha256=sha256)
