"""Reads detectors of qfgaohao/pytorch-ssd: mb2-ssd-lite and mb1-ssd.

The tables of names follow its ``vision/ssd/mobilenet_v2_ssd_lite.py`` and ``vision/ssd/mobilenetv1_ssd.py``, the
settings ``vision/ssd/config/mobilenetv1_ssd_config.py`` and ``vision/ssd/predictor.py``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mbv2kit.weights.published import Published
from mbv2kit.weights.pytorch_detector import HEAD, MAPS, Detector, prior_shapes, read_detector

_SIDE = 300
# It keeps the 200 best boxes of each class before suppression, and all that are left after it.
_HEAD: Mapping[str, Any] = {
    "anchors": prior_shapes((60, 105, 150, 195, 240, 285, 330), _SIDE, clipped=True),
    # The steps of the other maps, 100, 150 and 300 pixels, share the input evenly.
    "anchor_steps": [16.0, 32.0, 64.0, None, None, None],
    "score_threshold": 0.01,
    "nms_iou": 0.45,
    "max_detections": 200,
}
# Defaults of torch, which the project keeps.
_NORM = {"norm_eps": 1e-5, "norm_momentum": 0.1}

_BOTTLENECK = ("expand.conv", "expand.norm", "depthwise.conv", "depthwise.norm", "project.conv", "project.norm")
_EXTRA = ("0.conv", "0.norm", "1.depthwise.conv", "1.depthwise.norm", "1.pointwise.conv", "1.pointwise.norm")
_SEPARABLE = ("depthwise.conv", "depthwise.norm", "pointwise.conv", "pointwise.norm")
# Places of convolutions and norms in a block; activations come between.
_PLACES = (0, 1, 3, 4, 6, 7)
_PREDICTIONS = {"classification_headers": f"{HEAD}.classifiers", "regression_headers": f"{HEAD}.regressors"}

_MB2_SSD_LITE = {
    "base_net.0.0": "backbone.layers.layer_1.conv",
    "base_net.0.1": "backbone.layers.layer_1.norm",
    **{
        f"base_net.1.conv.{place}": f"backbone.layers.layer_2.{part}"
        for place, part in zip(_PLACES, _BOTTLENECK[2:], strict=False)
    },
    **{
        f"base_net.{block}.conv.{place}": f"backbone.layers.layer_{block + 1}.{part}"
        for block in range(2, 18)
        for place, part in zip(_PLACES, _BOTTLENECK, strict=True)
    },
    "base_net.18.0": "backbone.layers.layer_19.conv",
    "base_net.18.1": "backbone.layers.layer_19.norm",
    **{
        f"extras.{extra}.conv.{place}": f"{HEAD}.extras.{extra}.{part}"
        for extra in range(MAPS - 2)
        for place, part in zip(_PLACES, _EXTRA, strict=True)
    },
    **{
        f"{theirs}.{level}.{place}": f"{ours}.{level}.{part}"
        for theirs, ours in _PREDICTIONS.items()
        for level in range(MAPS - 1)
        for place, part in ((0, "0.conv"), (1, "0.norm"), (3, "1"))
    },
    **{f"{theirs}.{MAPS - 1}": f"{ours}.{MAPS - 1}" for theirs, ours in _PREDICTIONS.items()},
}

_MB1_SSD = {
    "base_net.0.0": "backbone.layers.layer_1.conv",
    "base_net.0.1": "backbone.layers.layer_1.norm",
    **{
        f"base_net.{block}.{place}": f"backbone.layers.layer_{block + 1}.{part}"
        for block in range(1, 14)
        for place, part in zip(_PLACES, _SEPARABLE, strict=False)
    },
    **{
        f"extras.{extra}.{place}": f"{HEAD}.extras.{extra}.{part}"
        for extra in range(MAPS - 2)
        for place, part in ((0, "0.conv"), (2, "1.conv"))
    },
    **{f"{theirs}.{level}": f"{ours}.{level}" for theirs, ours in _PREDICTIONS.items() for level in range(MAPS)},
}

DETECTORS = (
    Detector(
        name="pytorch-ssd's mb2-ssd-lite",
        modules=_MB2_SSD_LITE,
        # Below width 1 the project rounds numbers of channels down rather than to multiples of 8.
        backbone={"name": "mobilenet_v2", "divisible_by": 1, **_NORM},
        head={"name": "ssdlite", "bottlenecks": True, "extra_channels": [512, 256, 256, 64], **_HEAD, **_NORM},
        side=_SIDE,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    ),
    Detector(
        name="pytorch-ssd's mb1-ssd",
        modules=_MB1_SSD,
        backbone={"name": "mobilenet_v1", "activation": "relu", **_NORM},
        head={"name": "ssd", "activation": "relu", "extra_channels": [512, 256, 256, 256], **_HEAD, **_NORM},
        side=_SIDE,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    ),
)


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether the names of tensors are those of a detector of pytorch-ssd, supported or not."""
    return any(name.startswith("classification_headers.") for name in tensors)


def read(tensors: Mapping[str, Tensor], *, source: str, sha256: str) -> Published:
    """Translates the tensors of one of :data:`DETECTORS`.

    Args:
        tensors: Tensors by the names of pytorch-ssd.
        source: The file that the tensors were read from.
        sha256: Its hash.

    Raises:
        UserError: The tensors belong to another network.
    """
    return read_detector(DETECTORS, tensors, source=source, sha256=sha256)
