"""Reads SSDLite on MobileNetV2 of mmdetection.

The table of names follows its ``mmdet/models/backbones/mobilenet_v2.py``, ``mmdet/models/necks/ssd_neck.py`` and
``mmdet/models/dense_heads/ssd_head.py``, the settings ``configs/ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mbv2kit.backbones.mobilenet_v2 import STAGES
from mbv2kit.weights.published import Published
from mbv2kit.weights.pytorch_detector import HEAD, MAPS, Detector, prior_shapes, read_detector

_SIDE = 320
_NORM = {"norm_eps": 1e-3, "norm_momentum": 0.03}
_PREDICTIONS = {"bbox_head.cls_convs": f"{HEAD}.classifiers", "bbox_head.reg_convs": f"{HEAD}.regressors"}
_EXTRA = {"0": "0", "1.depthwise_conv": "1.depthwise", "1.pointwise_conv": "1.pointwise"}


def _backbone() -> dict[str, str]:
    """Returns the names of the backbone's convolutions: theirs count stages and the blocks of each, ours all blocks."""
    blocks = [
        (f"layer{stage}.{repeat}", expansion)
        for stage, (expansion, _, repeats, _) in enumerate(STAGES, start=1)
        for repeat in range(repeats)
    ]
    names = {"conv1": "layer_1", "conv2": f"layer_{len(blocks) + 2}"}
    for number, (block, expansion) in enumerate(blocks, start=2):
        parts = {"depthwise_conv": "depthwise", "linear_conv": "project"}
        if expansion > 1:
            parts["expand_conv"] = "expand"
        names |= {f"{block}.{theirs}": f"layer_{number}.{ours}" for theirs, ours in parts.items()}
    return {f"backbone.{theirs}": f"backbone.layers.{ours}" for theirs, ours in names.items()}


# Each of them is a convolution and its norm.
_CONVOLUTIONS = {
    **_backbone(),
    **{
        f"neck.extra_layers.{extra}.{theirs}": f"{HEAD}.extras.{extra}.{ours}"
        for extra in range(MAPS - 2)
        for theirs, ours in _EXTRA.items()
    },
    **{f"{theirs}.{level}.0": f"{ours}.{level}.0" for theirs, ours in _PREDICTIONS.items() for level in range(MAPS)},
}

DETECTOR = Detector(
    name="mmdetection's ssdlite_mobilenetv2",
    modules={
        **{f"{theirs}.conv": f"{ours}.conv" for theirs, ours in _CONVOLUTIONS.items()},
        **{f"{theirs}.bn": f"{ours}.norm" for theirs, ours in _CONVOLUTIONS.items()},
        **{
            f"{theirs}.{level}.1": f"{ours}.{level}.1" for theirs, ours in _PREDICTIONS.items() for level in range(MAPS)
        },
    },
    backbone={"name": "mobilenet_v2", **_NORM},
    head={
        "name": "ssdlite",
        "maps": ["layer_14", "layer_19"],
        "anchors": prior_shapes((48, 100, 150, 202, 253, 304, 320), _SIDE, clipped=False),
        # The steps of the other maps, 16, 32, 64, 160 and 320 pixels, share the input evenly.
        "anchor_steps": [None, None, None, 107.0, None, None],
        "score_threshold": 0.02,
        "nms_iou": 0.45,
        "max_detections": 200,
        **_NORM,
    },
    side=_SIDE,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    background_last=True,
)


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether the names of tensors are those of a detector of mmdetection, supported or not."""
    return any(name.startswith("bbox_head.") for name in tensors)


def read(tensors: Mapping[str, Tensor], *, source: str, sha256: str, meta: Mapping[str, Any]) -> Published:
    """Translates the tensors of :data:`DETECTOR`.

    Args:
        tensors: Tensors by the names of mmdetection.
        source: The file that the tensors were read from.
        sha256: Its hash.
        meta: What the file says about its tensors, such as the names of the classes.

    Raises:
        UserError: The tensors belong to another network.
    """
    return read_detector([DETECTOR], tensors, source=source, sha256=sha256, class_names=_class_names(meta))


def _class_names(meta: Mapping[str, Any]) -> list[str] | None:
    """Returns the names of the classes; version 3 keeps them in ``dataset_meta``, in one of two spellings."""
    inner = meta.get("dataset_meta")
    for place in (meta, inner if isinstance(inner, Mapping) else {}):
        for key in ("CLASSES", "classes"):
            names = place.get(key)
            if isinstance(names, list | tuple) and all(isinstance(name, str) and name for name in names):
                return list(names)
    return None
