"""Reads weights of torchvision: MobileNetV2, ResNet-101, DeepLabv3 on ResNet-101 and VGG16.

The tables of names follow torchvision's ``models/mobilenetv2.py``, ``models/resnet.py``,
``models/segmentation/deeplabv3.py`` and ``models/vgg.py``.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbv2kit.errors import UserError, nearest
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Task
from mbv2kit.weights.class_names import classification_classes, segmentation_classes
from mbv2kit.weights.published import Published, find_width, gray, origin, scaled, translate
from mbv2kit.weights.tensor_files import sha256_of

LICENSE = "BSD-3-Clause"
# Defaults of torch, which torchvision keeps.
_NORM = {"norm_eps": 1e-5, "norm_momentum": 0.1}

_INVERTED_RESIDUAL = {
    "conv.0.0": "expand.conv",
    "conv.0.1": "expand.norm",
    "conv.1.0": "depthwise.conv",
    "conv.1.1": "depthwise.norm",
    "conv.2": "project.conv",
    "conv.3": "project.norm",
}
MOBILENET_V2 = {
    "features.0.0": "backbone.layers.layer_1.conv",
    "features.0.1": "backbone.layers.layer_1.norm",
    "features.1.conv.0.0": "backbone.layers.layer_2.depthwise.conv",
    "features.1.conv.0.1": "backbone.layers.layer_2.depthwise.norm",
    "features.1.conv.1": "backbone.layers.layer_2.project.conv",
    "features.1.conv.2": "backbone.layers.layer_2.project.norm",
    **{
        f"features.{block}.{theirs}": f"backbone.layers.layer_{block + 1}.{ours}"
        for block in range(2, 18)
        for theirs, ours in _INVERTED_RESIDUAL.items()
    },
    "features.18.0": "backbone.layers.layer_19.conv",
    "features.18.1": "backbone.layers.layer_19.norm",
    "classifier.1": "heads.classification.linear",
}

# The stages of the backbone are modules of torchvision, so the names within a block are the same.
_BOTTLENECK = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
_FIRST_BOTTLENECK = (*_BOTTLENECK, "downsample.0", "downsample.1")
_RESNET_101_FEATURES = {
    "conv1": "backbone.layers.stem.conv",
    "bn1": "backbone.layers.stem.norm",
    **{
        f"layer{stage}.{block}.{module}": f"backbone.layers.stage_{stage}.{block}.{module}"
        for stage, blocks in ((1, 3), (2, 4), (3, 23), (4, 3))
        for block in range(blocks)
        for module in (_FIRST_BOTTLENECK if block == 0 else _BOTTLENECK)
    },
}
RESNET_101 = _RESNET_101_FEATURES | {"fc": "heads.classification.linear"}

DEEPLAB_V3 = {
    **{f"backbone.{theirs}": ours for theirs, ours in _RESNET_101_FEATURES.items()},
    "classifier.0.convs.0.0": "heads.segmentation.branches.0.conv",
    "classifier.0.convs.0.1": "heads.segmentation.branches.0.norm",
    "classifier.0.convs.1.0": "heads.segmentation.branches.1.conv",
    "classifier.0.convs.1.1": "heads.segmentation.branches.1.norm",
    "classifier.0.convs.2.0": "heads.segmentation.branches.2.conv",
    "classifier.0.convs.2.1": "heads.segmentation.branches.2.norm",
    "classifier.0.convs.3.0": "heads.segmentation.branches.3.conv",
    "classifier.0.convs.3.1": "heads.segmentation.branches.3.norm",
    "classifier.0.convs.4.1": "heads.segmentation.pooling.conv",
    "classifier.0.convs.4.2": "heads.segmentation.pooling.norm",
    "classifier.0.project.0": "heads.segmentation.join.conv",
    "classifier.0.project.1": "heads.segmentation.join.norm",
    "classifier.1": "heads.segmentation.refine.conv",
    "classifier.2": "heads.segmentation.refine.norm",
    "classifier.4": "heads.segmentation.classify",
}

VGG_16 = {
    "features.0": "backbone.layers.conv1_2.conv1_1",
    "features.2": "backbone.layers.conv1_2.conv1_2",
    "features.5": "backbone.layers.conv2_2.conv2_1",
    "features.7": "backbone.layers.conv2_2.conv2_2",
    "features.10": "backbone.layers.conv3_3.conv3_1",
    "features.12": "backbone.layers.conv3_3.conv3_2",
    "features.14": "backbone.layers.conv3_3.conv3_3",
    "features.17": "backbone.layers.conv4_3.conv4_1",
    "features.19": "backbone.layers.conv4_3.conv4_2",
    "features.21": "backbone.layers.conv4_3.conv4_3",
    "features.24": "backbone.layers.conv5_3.conv5_1",
    "features.26": "backbone.layers.conv5_3.conv5_2",
    "features.28": "backbone.layers.conv5_3.conv5_3",
    "classifier.0": "heads.classification.hidden_1",
    "classifier.3": "heads.classification.hidden_2",
    "classifier.6": "heads.classification.linear",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network of torchvision, and the same network in mbv2kit.

    Attributes:
        modules: Name in torchvision of every module with parameters or buffers, and its name in mbv2kit.
        task: The network's task.
        scores: Name in torchvision of the layer with an output for each class.
        backbone: Name and arguments of the backbone.
        head: Name and arguments of the head.
        shapes: Shapes of tensors that distinguish it from other networks with the same names.
        left_out: Prefixes of the names of tensors that only training needs.
    """

    modules: Mapping[str, str]
    task: Task
    scores: str
    backbone: Mapping[str, Any]
    head: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


# Keys are names of functions in torchvision.models.
NETWORKS: Mapping[str, Network] = {
    "mobilenet_v2": Network(
        modules=MOBILENET_V2,
        task="classification",
        scores="classifier.1",
        backbone={"name": "mobilenet_v2", **_NORM},
        head={"name": "classifier", "dropout": 0.2},
    ),
    "resnet101": Network(
        modules=RESNET_101,
        task="classification",
        scores="fc",
        backbone={"name": "resnet_101", **_NORM},
        head={"name": "classifier", "dropout": 0.0},
        # ResNeXt-101 and Wide ResNet-101 differ here.
        shapes={"layer1.0.conv2.weight": (64, 64, 3, 3)},
    ),
    "deeplabv3_resnet101": Network(
        modules=DEEPLAB_V3,
        task="segmentation",
        scores="classifier.4",
        backbone={"name": "resnet_101", "output_stride": 8, **_NORM},
        head={
            "name": "deeplab_v3",
            "aspp": True,
            "feature": "last",
            "dropout": 0.5,
            "refine": True,
            "align_corners": False,
            **_NORM,
        },
        left_out=("aux_classifier.",),
    ),
    "vgg16": Network(
        modules=VGG_16,
        task="classification",
        scores="classifier.6",
        backbone={"name": "vgg16", "ceil_pooling": False},
        head={"name": "vgg_classifier", "dropout": 0.5},
    ),
}


def recognizes(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether the names and shapes of tensors are those of one of :data:`NETWORKS`."""
    return _find_network(tensors) is not None


def read(tensors: Mapping[str, Tensor], *, source: str, sha256: str, file_name: str | None = None) -> Published:
    """Translates the tensors of one of :data:`NETWORKS`.

    Preprocessing and normalization are those of the published file that the tensors come from, found by its SHA-256 or
    else its name. Any other file gets those of torchvision's newest weights of the network.

    Args:
        tensors: Tensors by the names of torchvision.
        source: The name or file that the tensors were read from.
        sha256: Hash of the file.
        file_name: The name under which the file was published, such as ``mobilenet_v2-7ebf99e0.pth``.

    Raises:
        UserError: The tensors belong to another network.
    """
    name = _find_network(tensors)
    if name is None:
        raise UserError(f"{source} holds none of torchvision's networks that are supported: {', '.join(NETWORKS)}.")
    network = NETWORKS[name]
    renamed, left_out = translate(tensors, network.modules)
    backbone, head = dict(network.backbone), dict(network.head)
    outputs = len(tensors[f"{network.scores}.weight"])
    class_names: tuple[str, ...]
    if name == "mobilenet_v2":
        backbone["width"] = find_width(renamed, "mobilenet_v2")
    if network.task == "segmentation":
        class_names, background = segmentation_classes(outputs), True
        join = "heads.segmentation.join.conv.weight"
        renamed[join] = _pooling_first(renamed[join])
    else:
        class_names, background = classification_classes(outputs)
        head["background"] = background
    entries = _entries(name)
    published = _find_entry(entries, sha256, file_name)
    entry = published or entries["DEFAULT"]
    transforms = entry.transforms()
    spec = ModelSpec(
        backbone=backbone,
        heads={network.task: head},
        class_names={network.task: class_names},
        input=_preprocess(network.task, transforms),
        mean=scaled(transforms.mean, 255),
        std=scaled(transforms.std, 255),
        origin=origin(
            source,
            sha256=sha256,
            license=LICENSE if published else None,
            background_class="first output" if background else "none",
            transforms=f"torchvision {type(entry).__name__}.{entry.name}",
        ),
    )
    return Published(spec=spec, tensors=renamed, left_out=left_out)


def fetch(name: str) -> Path:
    """Returns the file of published weights in torch's cache; a missing or damaged file is downloaded.

    Args:
        name: One of :data:`NETWORKS`; an ending such as ``@IMAGENET1K_V1`` names other weights than the newest.

    Raises:
        UserError: The name is unknown, or the file cannot be fetched or has the wrong SHA-256.
    """
    network, _, version = name.partition("@")
    if network not in NETWORKS:
        raise UserError(f"torchvision's '{network}' is not supported.{nearest(network, NETWORKS)}")
    entries = _entries(network)
    version = version or "DEFAULT"
    if version not in entries:
        raise UserError(f"torchvision has no '{version}' weights of the whole {network}.{nearest(version, entries)}")
    url = entries[version].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.is_file() and sha256_of(path).startswith(_hash_in(path)):
        return path
    by_hand = f"fetch {url} by hand and give the path of the file"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The entry's own get_state_dict() unpickles any content.
        torch.hub.download_url_to_file(url, str(path), _hash_in(path), progress=sys.stderr.isatty())
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{name} could not be fetched to {path.parent} ({reason}); {by_hand}.") from None
    except RuntimeError:
        raise UserError(
            f"{name}: the download from {url} was cut short or is another file, because its SHA-256 does not begin "
            f"with {_hash_in(path)}; try again, or {by_hand}."
        ) from None
    return path


def _find_network(tensors: Mapping[str, Tensor]) -> str | None:
    for name, network in NETWORKS.items():
        _, others = translate(tensors, network.modules)
        if (
            all(f"{module}.weight" in tensors for module in network.modules)
            and all(tensors[key].shape == shape for key, shape in network.shapes.items())
            and all(other.startswith(network.left_out) for other in others)
        ):
            return name
    return None


def _pooling_first(weight: Tensor) -> Tensor:
    """Reorders the inputs of the convolution that joins the branches: in torchvision, image pooling is last of five."""
    *branches, pooling = weight.chunk(5, dim=1)
    return torch.cat([pooling, *branches], dim=1)


def _entries(network: str) -> dict[str, Any]:
    """Returns the published weights of a network by name; ``DEFAULT`` is the newest."""
    # Takes a second to import, and only these weights need it.
    from torchvision.models import get_model_weights

    entries = get_model_weights(network).__members__.items()
    # Weights without classes are those of a part: VGG16's IMAGENET1K_FEATURES lacks the classifier.
    return {name: entry for name, entry in entries if entry.meta["categories"]}


def _find_entry(entries: Mapping[str, Any], sha256: str, file_name: str | None) -> Any:
    """Returns the entry whose file has this hash, or else this name; None if there is none."""
    files = {Path(entry.url): entry for entry in entries.values()}
    by_hash = [entry for path, entry in files.items() if sha256.startswith(_hash_in(path))]
    by_name = [entry for path, entry in files.items() if path.name == file_name]
    return next(iter(by_hash + by_name), None)


def _hash_in(path: Path) -> str:
    """Returns the end of a published file's name, which is the start of its SHA-256."""
    return path.stem.rpartition("-")[2]


def _preprocess(task: Task, transforms: Any) -> Preprocess:
    (short_side,) = transforms.resize_size
    if task == "segmentation":
        # torchvision scales the short side and keeps the aspect ratio. For a fixed size, cropping would leave pixels
        # without a class, and stretching would change shapes from those in training.
        return Preprocess((short_side, short_side), resize="letterbox", fill=gray(scaled(transforms.mean, 255)))
    (size,) = transforms.crop_size
    return Preprocess((size, size), resize="crop", crop_fraction=size / short_side)
