"""Reads MobileNetV1, MobileNetV2 and DeepLabv3 from TFLite files, float or quantized.

Weights become floats again. The batch norm that was folded into them becomes one that only adds the bias. Converters
name layers freely but keep their order, so layers are identified by position: the n-th layer of the file has the n-th
name below.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor

from mbv2kit.backbones import create_backbone
from mbv2kit.backbones.mobilenet_v2 import LAST_CHANNELS
from mbv2kit.errors import UserError
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.nn.layers import Padding
from mbv2kit.structures import Task
from mbv2kit.weights.class_names import classification_classes, segmentation_classes, without_background
from mbv2kit.weights.published import Published, find_width, gray, origin
from mbv2kit.weights.tensor_files import sha256_of
from mbv2kit.weights.tflite_graph import Graph, Layer, read_graph

# Some channels of TensorFlow's first layers never vary. Further training with a smaller epsilon would amplify them
# without bound.
NORM_EPS = 1e-3
HEAD_EPS = 1e-5
# Names of 1001 classes have some 20 kB.
_LARGEST_LABELS = 1_000_000
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
V2_SHORTCUTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The head of the file's network, as parts of a model of mbv2kit."""

    task: Task
    options: dict[str, Any]
    class_names: tuple[str, ...]
    background: bool
    input: Preprocess
    tensors: dict[str, Tensor]


def read(path: Path, source: str) -> Published:
    """Reads a TFLite file.

    Args:
        path: The file.
        source: Name of the source in ``model.json``.

    Raises:
        UserError: The file is damaged or holds an unknown network.
    """
    graph = read_graph(path)
    backbone, layers, behind = _split(graph, path)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors |= _with_norm(f"backbone.layers.{name}", layer, NORM_EPS)
    head = _classifier(behind[0], graph, path) if len(behind) == 1 else _deeplab(behind, graph, path)
    mean, std = graph.input_scale or FLOAT_SCALE
    spec = ModelSpec(
        backbone=_backbone_options(backbone, layers, tensors, path),
        heads={head.task: head.options},
        class_names={head.task: head.class_names},
        input=replace(head.input, fill=gray([mean])),
        mean=(mean,) * 3,
        std=(std,) * 3,
        origin=origin(
            source,
            sha256=sha256_of(path),
            license=None,
            format="TFLite, quantized" if graph.input_scale else "TFLite, float",
            background_class="first output" if head.background else "none",
        ),
    )
    _check_structure(spec, layers, path)
    return Published(spec=spec, tensors=tensors | head.tensors)


def _backbone_options(
    backbone: str, layers: Mapping[str, Layer], tensors: Mapping[str, Tensor], path: Path
) -> dict[str, Any]:
    options: dict[str, Any] = {"norm_eps": NORM_EPS, "padding": _padding(layers.values(), path)}
    if backbone == "mobilenet_v2":
        channels = [layer.weight.shape[0] for layer in layers.values()]
        options["divisible_by"] = 8 if all(count % 8 == 0 for count in channels) else 1
        # Below width 1, a network may keep its last 1280 channels or shrink them.
        options["shrink_last"] = "layer_19" in layers and channels[-1] < LAST_CHANNELS
    options["width"] = find_width(tensors, backbone, **options)
    return {"name": backbone, "output_stride": prod(layer.stride for layer in layers.values()), **options}


def _classifier(layer: Layer, graph: Graph, path: Path) -> _Head:
    labels = _packed_labels(path, len(layer.bias))
    names, background = classification_classes(len(layer.bias)) if labels is None else without_background(labels)
    return _Head(
        task="classification",
        options={"name": "classifier", "background": background},
        class_names=names,
        background=background,
        input=Preprocess(graph.input_size, "crop"),
        tensors={
            "heads.classification.linear.weight": torch.from_numpy(layer.weight).flatten(1),
            "heads.classification.linear.bias": torch.from_numpy(layer.bias),
        },
    )


def _deeplab(layers: Sequence[Layer], graph: Graph, path: Path) -> _Head:
    *branches, join, classify = layers
    # The order of the two branches differs between files.
    pooling = [layer for layer in branches if layer.input_size == (1, 1)]
    flat = [layer for layer in branches if layer.input_size != (1, 1)]
    if len(pooling) != 1 or len(flat) != 1:
        raise UserError(f"{path}: its head is not that of the paper: one branch with image pooling, one without.")
    name = "heads.segmentation"
    return _Head(
        task="segmentation",
        options={"name": "deeplab_v3", "norm_eps": HEAD_EPS, "align_corners": graph.align_corners is not False},
        class_names=_packed_labels(path, len(classify.bias)) or segmentation_classes(len(classify.bias)),
        background=False,
        input=Preprocess(graph.input_size, "letterbox"),
        tensors={
            **_with_norm(f"{name}.pooling", pooling[0], HEAD_EPS),
            **_with_norm(f"{name}.branches.0", flat[0], HEAD_EPS),
            **_with_norm(f"{name}.join", join, HEAD_EPS),
            f"{name}.classify.weight": torch.from_numpy(classify.weight),
            f"{name}.classify.bias": torch.from_numpy(classify.bias),
        },
    )


def _packed_labels(path: Path, outputs: int) -> tuple[str, ...] | None:
    """Returns the names of the outputs if the file's metadata hold a list of that length."""
    if not is_zipfile(path):
        return None
    left = _LARGEST_LABELS
    try:
        with ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith(".txt"):
                    continue
                with archive.open(name) as file:
                    # A few kilobytes may expand to gigabytes, whatever the archive says about their size.
                    text = file.read(left + 1)
                if len(text) > left:
                    raise ValueError(f"{name} has more than {left:,} bytes")
                left -= len(text)
                lines = text.decode().splitlines()
                if len(lines) == outputs:
                    return tuple(line.strip() for line in lines)
    # A damaged archive may make the reader raise anything: BadZipFile, zlib.error, RuntimeError, ...
    except Exception as error:
        raise UserError(f"{path}: its packed labels are damaged ({error}); fetch it again.") from None
    return None


def _split(graph: Graph, path: Path) -> tuple[str, dict[str, Layer], list[Layer]]:
    """Returns the name of the backbone, its layers by name, and the layers of the head."""
    depthwise = sum(layer.kind == "depthwise" for layer in graph.layers)
    count = len(graph.layers)
    if depthwise == 13 and count == len(MOBILENET_V1) + 1 and "ADD" not in graph.operations:
        backbone, names = "mobilenet_v1", MOBILENET_V1
    elif depthwise == 17 and count == len(MOBILENET_V2) + 1 and graph.operations.get("ADD") == V2_SHORTCUTS:
        backbone, names = "mobilenet_v2", MOBILENET_V2
    elif depthwise == 17 and count == len(MOBILENET_V2) - 1 + 4 and graph.operations.get("ADD") == V2_SHORTCUTS:
        # DeepLab reads the last block and has no layer after it.
        backbone, names = "mobilenet_v2", MOBILENET_V2[:-1]
    else:
        raise UserError(
            f"{path} holds an unknown network of {count} layers, {depthwise} depthwise; known are classifiers on "
            "MobileNetV1 (28 and 13) and MobileNetV2 (53 and 17), and DeepLabv3 on MobileNetV2 (55 and 17); a file "
            "that mbv2kit exported runs only in its model folder, under its own name (model.tflite, model_int8.tflite)."
        )
    return backbone, dict(zip(names, graph.layers, strict=False)), graph.layers[len(names) :]


def _with_norm(name: str, layer: Layer, eps: float) -> dict[str, Tensor]:
    """Returns the tensors of a ConvNormAct whose norm divides by 1 and adds the bias."""
    bias = torch.from_numpy(layer.bias)
    return {
        f"{name}.conv.weight": torch.from_numpy(layer.weight),
        f"{name}.norm.weight": torch.ones_like(bias),
        f"{name}.norm.bias": bias,
        f"{name}.norm.running_mean": torch.zeros_like(bias),
        f"{name}.norm.running_var": torch.full_like(bias, 1 - eps),
    }


def _padding(layers: Iterable[Layer], path: Path) -> Padding:
    """Returns how the strided convolutions pad; the others pad the same in every network."""
    rules = {layer.padding for layer in layers if layer.stride > 1}
    if rules == {"same"}:
        return "tf_same"
    if rules == {"symmetric"}:
        return "symmetric"
    raise UserError(
        f"{path}: its strided convolutions pad in ways ({', '.join(sorted(rules))}) that are not supported."
    )


def _check_structure(spec: ModelSpec, layers: Mapping[str, Layer], path: Path) -> None:
    """Raises :class:`UserError` if a layer of the file differs from the backbone's layer of that name."""
    with torch.device("meta"):
        backbone = create_backbone(**spec.backbone)
    for name, layer in layers.items():
        part = backbone.get_submodule(f"layers.{name}")
        conv: Any = part.conv
        ours = (conv.stride[0], conv.dilation[0], conv.groups > 1, "relu6" if hasattr(part, "act") else "none")
        theirs = (layer.stride, layer.dilation, layer.kind == "depthwise", layer.activation)
        if ours != theirs:
            words = "stride {}, dilation {}, depthwise {}, activation {}"
            raise UserError(
                f"{path}: its layer '{layer.name}' has {words.format(*theirs)}, "
                f"but {name} of {spec.backbone['name']} has {words.format(*ours)}."
            )
