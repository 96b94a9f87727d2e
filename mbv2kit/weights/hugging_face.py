"""Reads MobileNets of the transformers library from a folder of save_pretrained() or of the Hugging Face Hub.

The networks are those of transformers/models/mobilenet_v1 and mobilenet_v2.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from mbv2kit.backbones.mobilenet_v1 import BLOCKS as V1_BLOCKS
from mbv2kit.backbones.mobilenet_v2 import LAST_CHANNELS, STAGES, STEM_CHANNELS
from mbv2kit.errors import UserError, nearest
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.nn.layers import make_divisible
from mbv2kit.structures import Task
from mbv2kit.weights.class_names import classification_classes, segmentation_classes, without_background
from mbv2kit.weights.hub_folder import (
    CONFIG_FILE,
    FLAG,
    POSITIVE,
    SHARE,
    THREE,
    THREE_POSITIVE,
    Kind,
    license_in,
    names_in,
    read_config,
    read_json,
    value_in,
    weights_in,
)
from mbv2kit.weights.published import Published, Triple, gray, origin, scaled, translate
from mbv2kit.weights.tensor_files import read_tensors, sha256_of

PREPROCESSOR_FILE = "preprocessor_config.json"

# Backbone and task of each network, by the name of its class in transformers.
_ARCHITECTURES: dict[str, tuple[str, Task]] = {
    "MobileNetV1ForImageClassification": ("mobilenet_v1", "classification"),
    "MobileNetV2ForImageClassification": ("mobilenet_v2", "classification"),
    "MobileNetV2ForSemanticSegmentation": ("mobilenet_v2", "segmentation"),
}

# Keys of config.json that change the network, with the one value that is supported.
_ONE_WAY: dict[str, dict[str, Any]] = {
    "mobilenet_v1": {"num_channels": 3, "min_depth": 8, "hidden_act": "relu6", "output_stride": 32},
    "mobilenet_v2": {
        "num_channels": 3,
        "min_depth": 8,
        "depth_divisible_by": 8,
        "expand_ratio": 6,
        "first_layer_is_expansion": True,
        "hidden_act": "relu6",
    },
}
_OUTPUT_STRIDE = Kind("8, 16 or 32", lambda value: value in (8, 16, 32))
_DROPOUT = {"mobilenet_v1": 0.999, "mobilenet_v2": 0.8}

# Names of each convolution with its norm, in transformers and within the backbone here. The second layer of the
# backbone is part of the stem in transformers.
_BLOCK = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}
_BACKBONES: dict[str, dict[str, str]] = {
    "mobilenet_v1": {
        "conv_stem": "layer_1",
        **{f"layer.{2 * k}": f"layer_{k + 2}.depthwise" for k in range(len(V1_BLOCKS))},
        **{f"layer.{2 * k + 1}": f"layer_{k + 2}.pointwise" for k in range(len(V1_BLOCKS))},
    },
    "mobilenet_v2": {
        "conv_stem.first_conv": "layer_1",
        "conv_stem.conv_3x3": "layer_2.depthwise",
        "conv_stem.reduce_1x1": "layer_2.project",
        **{f"layer.{k}.{theirs}": f"layer_{k + 3}.{ours}" for k in range(16) for theirs, ours in _BLOCK.items()},
        "conv_1x1": "layer_19",
    },
}
_SEGMENTATION_HEAD = {"conv_pool": "pooling", "conv_aspp": "branches.0", "conv_projection": "join"}
_PARTS = {"convolution": "conv", "normalization": "norm"}


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether tensors have the names of a network that :func:`read_folder` reads.

    The file alone is not enough: padding, epsilon and class names are in ``config.json``.
    """
    return any(f"{backbone}.conv_stem" in name for name in tensors for backbone in _BACKBONES)


def read_folder(folder: Path, source: str) -> Published:
    """Reads a folder that ``save_pretrained()`` of transformers wrote, or a copy from the Hub.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``. Optional are
            ``preprocessor_config.json`` and ``README.md``, which states the license.
        source: Name of the source in ``model.json``.

    Raises:
        UserError: A file is missing or damaged, or the network differs from those of mbv2kit.
    """
    path = folder / CONFIG_FILE
    config = read_config(folder)
    backbone, task = _architecture(config, path)
    options = _backbone_options(backbone, config, path)
    weights = weights_in(folder)
    tensors, left_out = translate(read_tensors(weights), _modules(backbone, task))
    scores = "linear.bias" if task == "classification" else "classify.bias"
    if f"heads.{task}.{scores}" not in tensors:
        raise UserError(f"{weights} lacks the layer that scores the classes, although {path} lists it.")
    outputs = tensors[f"heads.{task}.{scores}"].numel()
    names, background = _class_names(config, task, outputs, path)
    head: dict[str, Any] = {"dropout": _dropout(backbone, config, path)}
    if task == "classification":
        head |= {"name": "classifier", "background": background}
    else:
        # The published weights come from TensorFlow's DeepLab, which aligns the corners; this is exact for inputs of
        # 16 k + 1 pixels. The processor of transformers aligns the edges, which moves the mask by up to half a step.
        head |= {"name": "deeplab_v3", "aspp": False, "align_corners": True, "norm_eps": 1e-5}
    preprocess, mean, std = _input(folder, config, task)
    spec = ModelSpec(
        backbone=options,
        heads={task: head},
        class_names={task: names},
        input=preprocess,
        mean=mean,
        std=std,
        origin=origin(
            source,
            sha256=sha256_of(weights),
            license=license_in(folder),
            background_class="first output" if background else "none",
        ),
    )
    return Published(spec=spec, tensors=tensors, left_out=left_out)


def _architecture(config: Mapping[str, Any], path: Path) -> tuple[str, Task]:
    found = config.get("architectures")
    name = found[0] if isinstance(found, list) and found else found
    if not isinstance(name, str):
        raise UserError(f"{path}: 'architectures' must name the network, got {found!r}.")
    if name not in _ARCHITECTURES:
        raise UserError(f"{path}: the architecture '{name}' is not supported.{nearest(name, _ARCHITECTURES)}")
    backbone, task = _ARCHITECTURES[name]
    if config.get("model_type", backbone) != backbone:
        raise UserError(f"{path}: 'model_type' must be '{backbone}' for a {name}, got {config['model_type']!r}.")
    return backbone, task


def _backbone_options(backbone: str, config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for key, value in _ONE_WAY[backbone].items():
        if config.get(key, value) != value:
            raise UserError(f"{path}: '{key}' must be {value}, got {config[key]!r}; other networks are not supported.")
    options: dict[str, Any] = {
        "name": backbone,
        "width": float(value_in(config, "depth_multiplier", POSITIVE, 1.0, path)),
        "padding": "tf_same" if value_in(config, "tf_padding", FLAG, True, path) else "symmetric",
        "norm_eps": value_in(config, "layer_norm_eps", POSITIVE, 1e-3, path),
    }
    if backbone == "mobilenet_v2":
        options["output_stride"] = value_in(config, "output_stride", _OUTPUT_STRIDE, 32, path)
        options["shrink_last"] = not value_in(config, "finegrained_output", FLAG, True, path)
        _check_channels(options["width"], options["output_stride"], path)
    return options


def _check_channels(width: float, output_stride: int, path: Path) -> None:
    """Refuses widths at which MobileNetV2 of transformers is not the network of the paper."""
    stages = [(channels, stride) for _, channels, _, stride in STAGES]
    for channels in (STEM_CHANNELS, *(channels for channels, _ in stages), LAST_CHANNELS):
        # transformers rounds to a whole number first, which may move a number across the middle of two multiples of 8.
        theirs, ours = make_divisible(round(channels * width)), make_divisible(channels * width)
        if theirs != ours:
            raise UserError(
                f"{path}: at 'depth_multiplier' {width} transformers turns {channels} channels into {theirs}, but "
                f"MobileNetV2 has {ours}; such weights are not supported."
            )
    reached = 2
    for (before, _), (channels, stride) in pairwise(stages):
        reached *= stride
        loses_stride = stride > 1 and reached > output_stride
        # If it has as many output as input channels, transformers adds a shortcut to such a block.
        if loses_stride and make_divisible(before * width) == make_divisible(channels * width):
            raise UserError(
                f"{path}: at 'depth_multiplier' {width} and 'output_stride' {output_stride} transformers' network has "
                "a shortcut more than MobileNetV2; such weights are not supported."
            )


def _modules(backbone: str, task: Task) -> dict[str, str]:
    """Returns the name of every module in transformers and its name in the model."""
    layers = {f"{backbone}.{theirs}": f"backbone.layers.{ours}" for theirs, ours in _BACKBONES[backbone].items()}
    if task == "segmentation":
        # The head reads the map before this layer.
        del layers[f"{backbone}.conv_1x1"]
        layers |= {f"segmentation_head.{theirs}": f"heads.{task}.{ours}" for theirs, ours in _SEGMENTATION_HEAD.items()}
    modules = {f"{theirs}.{t}": f"{ours}.{o}" for theirs, ours in layers.items() for t, o in _PARTS.items()}
    if task == "segmentation":
        modules["segmentation_head.classifier.convolution"] = f"heads.{task}.classify"
    else:
        modules["classifier"] = f"heads.{task}.linear"
    return modules


def _class_names(config: Mapping[str, Any], task: Task, outputs: int, path: Path) -> tuple[tuple[str, ...], bool]:
    names = names_in(config, "id2label", outputs, path)
    if names is None or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return (segmentation_classes(outputs), False) if task == "segmentation" else classification_classes(outputs)
    return without_background(names) if task == "classification" else (names, False)


def _dropout(backbone: str, config: Mapping[str, Any], path: Path) -> float:
    value = value_in(config, "classifier_dropout_prob", SHARE, _DROPOUT[backbone], path)
    # The library copied 0.8 and 0.999 from TensorFlow, where they are the fraction that is kept. A dropout of more than
    # half of a classifier's input is never meant.
    return round(float(min(value, 1 - value)), 6)


def _input(folder: Path, config: Mapping[str, Any], task: Task) -> tuple[Preprocess, Triple, Triple]:
    path = folder / PREPROCESSOR_FILE
    if path.is_file():
        values = read_json(path)
    else:
        path = folder / CONFIG_FILE
        side = _side(config.get("image_size", 224), "height", "image_size", path)
        # The published models cut 32 pixels off the short side.
        values = {"crop_size": side, "size": side + 32}
    unit = 1.0
    if value_in(values, "do_rescale", FLAG, True, path):
        unit = 1 / value_in(values, "rescale_factor", POSITIVE, 1 / 255, path)
    mean, std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    if value_in(values, "do_normalize", FLAG, True, path):
        mean = value_in(values, "image_mean", THREE, [0.5, 0.5, 0.5], path)
        std = value_in(values, "image_std", THREE_POSITIVE, [0.5, 0.5, 0.5], path)
    # Pixels outside the image become zero in the network.
    preprocess = replace(_preprocess(values, task, path), fill=gray(scaled(mean, unit)))
    return preprocess, scaled(mean, unit), scaled(std, unit)


def _preprocess(values: Mapping[str, Any], task: Task, path: Path) -> Preprocess:
    size = values.get("size", 256)
    crop = values.get("crop_size", 224) if value_in(values, "do_center_crop", FLAG, True, path) else None
    cut = None if crop is None else _sides(crop, "crop_size", path)
    if not value_in(values, "do_resize", FLAG, True, path):
        raise UserError(f"{path}: 'do_resize' must be true, because images of any size must fit the network's input.")
    if isinstance(size, dict) and "height" in size:
        sides = _sides(size, "size", path)
        if cut not in (None, sides):
            raise UserError(f"{path}: 'crop_size' must equal 'size' if that has a height and a width, got {crop}.")
        return Preprocess(size=sides, resize="stretch")
    short = _side(size, "shortest_edge", "size", path)
    if task == "segmentation":
        # A crop would leave the image's margin without classes, and the models were trained on padded images.
        return Preprocess(size=(short, short) if cut is None else cut, resize="pad")
    if cut is None or cut[0] != cut[1] or cut[0] > short:
        raise UserError(f"{path}: 'crop_size' must be a square no larger than 'size', and 'do_center_crop' true.")
    return Preprocess(size=cut, resize="crop", crop_fraction=cut[0] / short)


def _sides(value: Any, name: str, path: Path) -> tuple[int, int]:
    return _side(value, "height", name, path), _side(value, "width", name, path)


def _side(value: Any, key: str, name: str, path: Path) -> int:
    """Returns a side in pixels from an object such as ``{"shortest_edge": 256}``, or from a number."""
    side = value.get(key) if isinstance(value, dict) else value
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        raise UserError(f"{path}: '{name}' must give '{key}' in whole pixels above 0, got {value!r}.")
    return side
