"""Recognizes MobileNetV1 and MobileNetV2, DeepLabv3 and SSD among the networks that TensorFlow's tools write.

Tools name layers freely but keep their order, so layers are identified by position: the n-th layer of the file has the
n-th name below. A batch norm that is folded into the weights becomes one that only adds the bias.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbv2kit.backbones import create_backbone
from mbv2kit.backbones.mobilenet_v2 import LAST_CHANNELS
from mbv2kit.errors import UserError, one_line
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.nn.layers import Padding
from mbv2kit.weights.class_names import (
    classification_classes,
    find_labels,
    segmentation_classes,
    without_background,
)
from mbv2kit.weights.network_graph import Layer, NetworkGraph
from mbv2kit.weights.published import Published, PublishedHead, find_width, gray, origin
from mbv2kit.weights.tensor_files import sha256_of
from mbv2kit.weights.tensorflow_layers import conv_norm_tensors, norm_eps, plain_tensors
from mbv2kit.weights.tensorflow_ssd import read_ssd, trunk

# Some channels of TensorFlow's first layers never vary. Further training with a smaller epsilon would amplify them
# without bound.
NORM_EPS = 1e-3
HEAD_EPS = 1e-5
# TensorFlow's models take pixels in -1..1; a quantized file states its scale itself.
FLOAT_SCALE = (127.5, 127.5)

MOBILENET_V1 = (
    "layer_1",
    *(f"layer_{k}.{part}" for k in range(2, 15) for part in ("depthwise", "pointwise")),
)
MOBILENET_V2 = (
    "layer_1",
    "layer_2.depthwise",
    "layer_2.project",
    *(f"layer_{k}.{part}" for k in range(3, 19) for part in ("expand", "depthwise", "project")),
    "layer_19",
)
# Heights and widths where a file takes any.
CLASSIFIER_SIZE, DEEPLAB_SIZE = (224, 224), (513, 513)


def publish(
    graph: NetworkGraph, path: Path, source: str, *, format: str, labels: Sequence[tuple[str, ...]] = ()
) -> Published:
    """Turns a network into a model of mbv2kit.

    Args:
        graph: The network.
        path: The file that it was read from, for messages.
        source: Name of the source in ``model.json``.
        format: Name of the file's format, for people.
        labels: Lists of class names that come with the file; the one of the right length counts.

    Raises:
        UserError: It is none of the networks that are known.
    """
    try:
        return _publish(graph, path, source, format, labels)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # Layers of a damaged file may have any shape.
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its layers do not fit together ({one_line(error)}); fetch it again.") from None


def _publish(graph: NetworkGraph, path: Path, source: str, format: str, labels: Sequence[tuple[str, ...]]) -> Published:
    backbone, positions, behind = _split(graph)
    layers = {name: graph.layers[position] for name, position in positions.items()}
    eps = norm_eps(layers.values(), NORM_EPS)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors |= conv_norm_tensors(f"backbone.layers.{name}", layer, eps)
    if graph.predictions is not None:
        head = read_ssd(graph, graph.predictions, positions, behind, labels)
    elif len(behind) == 1:
        head = _classifier(graph.layers[behind[0]], graph, labels)
    else:
        head = _deeplab([graph.layers[position] for position in behind], graph, labels)
    mean, std = graph.input_scale or FLOAT_SCALE
    options = {"norm_eps": eps, "padding": _padding(layers.values())}
    spec = ModelSpec(
        backbone=_backbone_options(backbone, layers, tensors, options),
        heads={head.task: head.options},
        class_names={head.task: head.class_names},
        input=replace(head.input, fill=gray([mean])),
        mean=(mean,) * 3,
        std=(std,) * 3,
        origin=origin(
            source,
            sha256=sha256_of(path),
            license=None,
            format=format,
            background_class="first output" if head.background else "none",
        ),
    )
    _check_structure(spec, layers, graph.shortcuts)
    return Published(spec=spec, tensors=tensors | head.tensors)


def _backbone_options(
    backbone: str, layers: Mapping[str, Layer], tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> dict[str, Any]:
    options = dict(options)
    if backbone == "mobilenet_v2":
        channels = [layer.weight.shape[0] for layer in layers.values()]
        options["divisible_by"] = 8 if all(count % 8 == 0 for count in channels) else 1
        # Below width 1, a network may keep its last 1280 channels or shrink them.
        options["shrink_last"] = "layer_19" in layers and channels[-1] < LAST_CHANNELS
    options["width"] = find_width(tensors, backbone, **options)
    return {"name": backbone, "output_stride": prod(layer.stride for layer in layers.values()), **options}


def _classifier(layer: Layer, graph: NetworkGraph, labels: Sequence[tuple[str, ...]]) -> PublishedHead:
    named = find_labels(labels, len(layer.bias))
    names, background = classification_classes(len(layer.bias)) if named is None else without_background(named)
    name = "heads.classification.linear"
    tensors = plain_tensors(name, layer)
    return PublishedHead(
        task="classification",
        options={"name": "classifier", "background": background},
        class_names=names,
        background=background,
        input=Preprocess(graph.input_size or CLASSIFIER_SIZE, "crop"),
        tensors={**tensors, f"{name}.weight": tensors[f"{name}.weight"].flatten(1)},
    )


def _deeplab(layers: Sequence[Layer], graph: NetworkGraph, labels: Sequence[tuple[str, ...]]) -> PublishedHead:
    *branches, join, classify = layers
    # The order of the two branches differs between files.
    pooling = [layer for layer in branches if layer.pooled]
    flat = [layer for layer in branches if not layer.pooled]
    if len(pooling) != 1 or len(flat) != 1:
        raise UserError("its head is not that of the paper: one branch with image pooling, one without.")
    name = "heads.segmentation"
    eps = norm_eps([*branches, join], HEAD_EPS)
    return PublishedHead(
        task="segmentation",
        options={"name": "deeplab_v3", "norm_eps": eps, "align_corners": graph.align_corners is not False},
        class_names=find_labels(labels, len(classify.bias)) or segmentation_classes(len(classify.bias)),
        background=False,
        input=Preprocess(graph.input_size or DEEPLAB_SIZE, "letterbox"),
        tensors={
            **conv_norm_tensors(f"{name}.pooling", pooling[0], eps),
            **conv_norm_tensors(f"{name}.branches.0", flat[0], eps),
            **conv_norm_tensors(f"{name}.join", join, eps),
            **plain_tensors(f"{name}.classify", classify),
        },
    )


def _split(graph: NetworkGraph) -> tuple[str, dict[str, int], list[int]]:
    """Returns the name of the backbone, the positions of its layers by name, and those of the layers behind it."""
    rows = trunk(graph)
    detector = graph.predictions is not None
    for backbone, names in (("mobilenet_v1", MOBILENET_V1), ("mobilenet_v2", MOBILENET_V2)):
        kinds = ["depthwise" if name.endswith("depthwise") else "convolution" for name in names]
        # DeepLab reads the last block of MobileNetV2 and has no layer after it.
        for end, counts in ((len(names), (1,)), (len(names) - 1, (4,))):
            behind = rows[end:]
            fits = end == len(names) and bool(behind) if detector else len(behind) in counts
            if fits and [graph.layers[k].kind for k in rows[:end]] == kinds[:end]:
                return backbone, dict(zip(names[:end], rows[:end], strict=True)), behind
    depthwise = sum(layer.kind == "depthwise" for layer in graph.layers)
    raise UserError(
        f"it holds an unknown network of {len(graph.layers)} layers, {depthwise} depthwise; known are classifiers on "
        "MobileNetV1 (28 and 13) and MobileNetV2 (53 and 17), DeepLabv3 on MobileNetV2 (55 and 17), and SSD and "
        "SSDLite on both; a file that mbv2kit exported runs only in its model folder, under its own name "
        "(model.tflite, model_int8.tflite)."
    )


def _padding(layers: Iterable[Layer]) -> Padding:
    """Returns how the strided convolutions pad; the others pad the same in every network."""
    rules = {layer.padding for layer in layers if layer.stride > 1}
    if rules == {"same"}:
        return "tf_same"
    if rules == {"symmetric"}:
        return "symmetric"
    raise UserError(f"its strided convolutions pad in ways ({', '.join(sorted(rules))}) that are not supported.")


def _check_structure(spec: ModelSpec, layers: Mapping[str, Layer], shortcuts: int) -> None:
    """Raises :class:`UserError` if a layer of the file differs from the backbone's layer of that name."""
    with torch.device("meta"):
        backbone = create_backbone(**spec.backbone)
    adding = sum(getattr(part, "adds_input", False) for part in backbone.modules())
    if shortcuts != adding:
        raise UserError(f"it has {shortcuts} shortcuts, but {spec.backbone['name']} of this width has {adding}.")
    for name, layer in layers.items():
        part = backbone.get_submodule(f"layers.{name}")
        conv: Any = part.conv
        ours = (conv.stride[0], conv.dilation[0], conv.groups > 1, "relu6" if hasattr(part, "act") else "none")
        theirs = (layer.stride, layer.dilation, layer.kind == "depthwise", layer.activation)
        if ours != theirs:
            words = "stride {}, dilation {}, depthwise {}, activation {}"
            raise UserError(
                f"its layer '{layer.name}' has {words.format(*theirs)}, "
                f"but {name} of {spec.backbone['name']} has {words.format(*ours)}."
            )
