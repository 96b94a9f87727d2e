"""Reads MobileNets of the timm library (timm/models/efficientnet.py): a file of its releases or a repository."""

import re
from collections import Counter
from collections.abc import Mapping
from math import floor
from pathlib import Path
from typing import Any

from torch import Tensor

from mbv2kit.backbones.mobilenet_v2 import LAST_CHANNELS, STEM_CHANNELS
from mbv2kit.errors import UserError, nearest
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.weights.class_names import classification_classes
from mbv2kit.weights.hub_folder import (
    CONFIG_FILE,
    SHARE,
    THREE,
    THREE_POSITIVE,
    Kind,
    license_in,
    names_in,
    read_config,
    value_in,
    weights_in,
)
from mbv2kit.weights.published import Published, find_width, origin, scaled, translate
from mbv2kit.weights.tensor_files import read_tensors, sha256_of

# Names in timm, and the options of the backbone that is the same network.
_NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv1_100": {"name": "mobilenet_v1", "width": 1.0},
    "mobilenetv1_125": {"name": "mobilenet_v1", "width": 1.25},
    "mobilenetv2_035": {"name": "mobilenet_v2", "width": 0.35},
    "mobilenetv2_050": {"name": "mobilenet_v2", "width": 0.5},
    "mobilenetv2_075": {"name": "mobilenet_v2", "width": 0.75},
    "mobilenetv2_100": {"name": "mobilenet_v2", "width": 1.0},
    "mobilenetv2_110d": {"name": "mobilenet_v2", "width": 1.1, "depth": 1.2, "fixed_ends": True},
    "mobilenetv2_120d": {"name": "mobilenet_v2", "width": 1.2, "depth": 1.4, "fixed_ends": True},
    "mobilenetv2_140": {"name": "mobilenet_v2", "width": 1.4},
}

# The weights that timm publishes for each network.
_TAGS = {
    "mobilenetv1_100": "ra4_e3600_r224_in1k",
    "mobilenetv1_125": "ra4_e3600_r224_in1k",
    "mobilenetv2_050": "lamb_in1k",
    "mobilenetv2_100": "ra_in1k",
    "mobilenetv2_110d": "ra_in1k",
    "mobilenetv2_120d": "ra_in1k",
    "mobilenetv2_140": "ra_in1k",
}

# Preprocessing and license of those weights, unless a configuration says otherwise.
_MEAN = {"mobilenet_v1": (0.5, 0.5, 0.5), "mobilenet_v2": (0.485, 0.456, 0.406)}
_STD = {"mobilenet_v1": (0.5, 0.5, 0.5), "mobilenet_v2": (0.229, 0.224, 0.225)}
_CROP, _CROP_OF_V1_125 = 0.875, 0.9
_INTERPOLATION = "bicubic"
_LICENSE = "Apache-2.0"
# Defaults of torch, which timm keeps.
_NORM = {"norm_eps": 1e-5, "norm_momentum": 0.1}

# Arguments of timm's constructor that config.json may hold, with the one value that is supported.
_ONE_WAY = {"in_chans": 3, "global_pool": "avg"}

# Supported values of the preprocessing in a configuration.
_SIZE = Kind(
    "[3, height, width]",
    lambda value: (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(side, int) and side > 0 for side in value)
        and value[0] == 3
    ),
)
_CROP_SHARE = Kind("a number above 0 and at most 1", lambda value: SHARE.fits(value) and value > 0)
_CROP_MODE = Kind("'center'", lambda value: value == "center")

# Number of blocks in each stage; for MobileNetV2, with the depth that makes as many.
_V1_STAGES = (1, 2, 2, 6, 2)
_V2_STAGES: dict[tuple[int, ...], float] = {
    (1, 2, 3, 4, 3, 3, 1): 1.0,
    (1, 3, 4, 5, 4, 4, 1): 1.2,
    (1, 3, 5, 6, 5, 5, 1): 1.4,
}

# Names of each module in timm and within the layer here: blocks of MobileNetV1, the first block of MobileNetV2, and
# its other blocks.
_SEPARABLE = {
    "conv_dw": "depthwise.conv",
    "bn1": "depthwise.norm",
    "conv_pw": "pointwise.conv",
    "bn2": "pointwise.norm",
}
_FIRST = {"conv_dw": "depthwise.conv", "bn1": "depthwise.norm", "conv_pw": "project.conv", "bn2": "project.norm"}
_INVERTED = {
    "conv_pw": "expand.conv",
    "bn1": "expand.norm",
    "conv_dw": "depthwise.conv",
    "bn2": "depthwise.norm",
    "conv_pwl": "project.conv",
    "bn3": "project.norm",
}


def repository(name: str) -> str:
    """Returns the repository on the Hub that holds the weights of a network.

    Args:
        name: A name of timm, such as ``mobilenetv2_100``, with or without a tag: ``mobilenetv2_100.ra_in1k``.

    Raises:
        UserError: The name or the tag is unknown, or timm publishes no weights for that network.
    """
    architecture, _, tag = name.partition(".")
    _check_architecture(architecture, name)
    if architecture not in _TAGS:
        raise UserError(f"timm publishes no weights for {architecture}, only for {', '.join(_TAGS)}.")
    if tag not in ("", _TAGS[architecture]):
        raise UserError(f"{name}: the tag '{tag}' is unknown.{nearest(tag, [_TAGS[architecture]])}")
    return f"timm/{architecture}.{_TAGS[architecture]}"


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether tensors have the names and kernels of timm's MobileNetV1 or MobileNetV2 of any width.

    This includes ``mobilenetv1_100h``, so that :func:`read` can explain why it is refused.
    """
    stages = _stages(tensors)
    needed = {"conv_stem.weight", "classifier.bias"} | (set() if stages == _V1_STAGES else {"conv_head.weight"})
    if (stages != _V1_STAGES and stages not in _V2_STAGES) or not needed <= tensors.keys():
        return False
    # Related networks have the same layout, but squeeze and excitation, 5 x 5 kernels or other expansions.
    _, others = translate(tensors, _modules(stages))
    if any(name.startswith("blocks.") for name in others):
        return False
    kernels = {tensor.shape[1:] for name, tensor in tensors.items() if name.endswith("conv_dw.weight")}
    return kernels == {(1, 3, 3)} and all(
        tensor.shape[:1] == (6 * tensor.shape[1],)
        for name, tensor in tensors.items()
        if name.endswith("conv_pw.weight") and name.replace("conv_pw", "conv_pwl") in tensors and tensor.dim() == 4
    )


def read(
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    sha256: str,
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Published:
    """Reads the tensors of one of timm's MobileNets.

    Args:
        tensors: Tensors by the names of timm.
        source: Name of the source in ``model.json`` and messages.
        sha256: Hash of the file.
        architecture: Name of the network in timm; None infers it from the tensors.
        config: ``pretrained_cfg`` of timm; None takes that of the weights that timm publishes.

    Raises:
        UserError: The network or a value of ``config`` is not supported.
    """
    if architecture is not None:
        _check_architecture(architecture, source)
    if not recognizes(tensors):
        raise UserError(f"{source} holds none of timm's networks that are supported: {', '.join(_NETWORKS)}.")
    stages = _stages(tensors)
    if stages == _V1_STAGES and "conv_head.weight" in tensors:
        _check_architecture("mobilenetv1_100h", source)
    ours, left_out = translate(tensors, _modules(stages))
    backbone = _backbone(ours, stages)
    if architecture is not None and backbone != _NETWORKS[architecture]:
        raise UserError(
            f"{source} should be {architecture}, which is {_NETWORKS[architecture]} here, but its tensors have the "
            f"shapes of {backbone}; give the matching file or name."
        )
    config, where = config or {}, f"{source}/{CONFIG_FILE}"
    outputs = tensors["classifier.bias"].numel()
    given = names_in(config, "label_names", outputs, where)
    names, background = (given, False) if given is not None else classification_classes(outputs)
    spec = ModelSpec(
        backbone={**backbone, "padding": "symmetric", **_NORM},
        heads={"classification": {"name": "classifier", "background": background}},
        class_names={"classification": names},
        input=_preprocess(config, _CROP_OF_V1_125 if backbone == _NETWORKS["mobilenetv1_125"] else _CROP, where),
        mean=scaled(value_in(config, "mean", THREE, _MEAN[backbone["name"]], where), 255),
        std=scaled(value_in(config, "std", THREE_POSITIVE, _STD[backbone["name"]], where), 255),
        origin=origin(
            source,
            sha256=sha256,
            # timm's own weights have the classes of ImageNet.
            license=config.get("license") or (_LICENSE if outputs == 1000 else None),
            background_class="first output" if background else "none",
            interpolation=config.get("interpolation", _INTERPOLATION),
        ),
    )
    return Published(spec=spec, tensors=ours, left_out=left_out)


def read_folder(folder: Path, source: str) -> Published:
    """Reads a local copy of a repository on the Hub that timm wrote.

    Args:
        folder: Holds ``config.json`` and ``model.safetensors`` or ``pytorch_model.bin``. Optional is ``README.md``,
            which states the license if the configuration has none.
        source: Name of the source in ``model.json``.

    Raises:
        UserError: A file is missing or damaged, or the network is not supported.
    """
    path = folder / CONFIG_FILE
    values = read_config(folder)
    architecture = values.get("architecture")
    if not isinstance(architecture, str):
        raise UserError(f"{path}: 'architecture' must be the name of a network of timm, got {architecture!r}.")
    _check_architecture(architecture, str(path))
    # The first repositories of timm have one flat object, with the class names under another key.
    config, arguments = values.get("pretrained_cfg", values), values.get("model_args", {})
    if not isinstance(config, dict) or not isinstance(arguments, dict):
        raise UserError(f"{path}: 'pretrained_cfg' and 'model_args' must be JSON objects.")
    for key, value in (("global_pool", values.get("global_pool", "avg")), *arguments.items()):
        if key != "num_classes" and value != _ONE_WAY.get(key):
            raise UserError(f"{path}: '{key}' of {value!r} makes a network that is not supported.")
    names = values.get("label_names", values.get("labels", config.get("label_names")))
    weights = weights_in(folder)
    return read(
        read_tensors(weights),
        source=source,
        sha256=sha256_of(weights),
        architecture=architecture,
        config={**config, "license": config.get("license") or license_in(folder), "label_names": names},
    )


def _check_architecture(architecture: str, where: str) -> None:
    if architecture == "mobilenetv1_100h":
        raise UserError(
            f"{where}: mobilenetv1_100h has a layer between its pooling and its classifier, which is not supported; "
            "take mobilenetv1_100 instead."
        )
    if architecture not in _NETWORKS:
        raise UserError(f"{where}: timm's '{architecture}' is not supported.{nearest(architecture, _NETWORKS)}")


def _stages(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Counts the blocks in each stage."""
    found = (re.match(r"blocks\.(\d+)\.(\d+)\.", name) for name in tensors)
    blocks = {(int(match[1]), int(match[2])) for match in found if match}
    counts = Counter(stage for stage, _ in blocks)
    return tuple(counts[stage] for stage in range(len(counts)))


def _modules(stages: tuple[int, ...]) -> dict[str, str]:
    """Returns the name of every module in timm and in the model, for a network with these blocks."""
    modules = {
        "conv_stem": "backbone.layers.layer_1.conv",
        "bn1": "backbone.layers.layer_1.norm",
        "classifier": "heads.classification.linear",
    }
    layer = 2
    for stage, repeats in enumerate(stages):
        parts = _SEPARABLE if stages == _V1_STAGES else _INVERTED if stage > 0 else _FIRST
        for repeat in range(repeats):
            prefix = f"blocks.{stage}.{repeat}"
            modules |= {f"{prefix}.{theirs}": f"backbone.layers.layer_{layer}.{ours}" for theirs, ours in parts.items()}
            layer += 1
    if stages != _V1_STAGES:
        modules |= {"conv_head": f"backbone.layers.layer_{layer}.conv", "bn2": f"backbone.layers.layer_{layer}.norm"}
    return modules


def _backbone(ours: Mapping[str, Tensor], stages: tuple[int, ...]) -> dict[str, Any]:
    """Returns the backbone that has these blocks and most of these shapes."""
    if stages == _V1_STAGES:
        return {"name": "mobilenet_v1", "width": find_width(ours, "mobilenet_v1")}
    depth = _V2_STAGES[stages]
    options: dict[str, Any] = {}
    if depth != 1.0:
        ends = [ours[f"backbone.layers.layer_{layer}.conv.weight"].shape[:1] for layer in (1, sum(stages) + 2)]
        options = {"depth": depth, "fixed_ends": ends == [(STEM_CHANNELS,), (LAST_CHANNELS,)]}
    return {"name": "mobilenet_v2", "width": find_width(ours, "mobilenet_v2", **options), **options}


def _preprocess(config: Mapping[str, Any], crop: float, where: str) -> Preprocess:
    _, height, width = value_in(config, "input_size", _SIZE, (3, 224, 224), where)
    value_in(config, "crop_mode", _CROP_MODE, "center", where)
    share = value_in(config, "crop_pct", _CROP_SHARE, crop, where)
    # timm rounds the scaled side down.
    return Preprocess(size=(height, width), resize="crop", crop_fraction=height / floor(height / share))
