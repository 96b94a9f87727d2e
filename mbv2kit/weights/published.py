"""The form into which every origin brings a published file: a spec, and the tensors of the model it describes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import mbv2kit
from mbv2kit.backbones import BACKBONES, create_backbone
from mbv2kit.errors import UserError
from mbv2kit.heads import HEADS
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.spec import ModelSpec
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.registry import Registry
from mbv2kit.structures import Task

Triple = tuple[float, float, float]

# Widths with published weights come first, then all others on a fine grid.
_WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.4, 1.3, 1.2, 1.1, 1.25, 0.1, *(k / 20 for k in range(3, 41)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedHead:
    """The head of a published network, as a part of a model of mbv2kit.

    Attributes:
        task: Its task.
        options: ``name`` and the arguments of its constructor.
        class_names: Names of its classes.
        background: Whether the file scores a background before the first class.
        input: How an image becomes the network's input.
        tensors: Its tensors by the names of the model.
    """

    task: Task
    options: dict[str, Any]
    class_names: tuple[str, ...]
    background: bool
    input: Preprocess
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Published weights as a spec and tensors of a model of mbv2kit.

    Attributes:
        spec: Describes the model; ``spec.origin`` says where it comes from.
        tensors: Values of every parameter and buffer of the model, by the names of its ``state_dict``.
        left_out: Names of the other tensors of the file, such as a head that only training needs.
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    left_out: Sequence[str] = ()

    def build(self) -> VisionModel:
        """Returns the model with its weights, on the CPU and in evaluation mode.

        Raises:
            UserError: A tensor is missing or has another shape.
        """
        source = self.spec.origin["source"]
        try:
            model = VisionModel(self._in_full())
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        wanted = model.state_dict()
        for name, tensor in wanted.items():
            if name not in self.tensors and not name.endswith("num_batches_tracked"):
                raise UserError(f"{source} has no values for '{name}', which its network needs.")
            if name in self.tensors and self.tensors[name].shape != tensor.shape:
                raise UserError(
                    f"{source} has values of shape {tuple(self.tensors[name].shape)} for '{name}', "
                    f"which must be {tuple(tensor.shape)}."
                )
        model.load_state_dict({name: self.tensors.get(name, tensor) for name, tensor in wanted.items()})
        return model.eval()

    def _in_full(self) -> ModelSpec:
        """Returns the spec with all default arguments, because defaults may change and the weights do not."""
        spec = self.spec
        backbone = _with_defaults(BACKBONES, spec.backbone)
        heads = {task: _with_defaults(HEADS, head) for task, head in spec.heads.items()}
        origin = {**spec.origin, "left_out": list(self.left_out)} if self.left_out else spec.origin
        return replace(spec, backbone=backbone, heads=heads, origin=origin)


def _with_defaults(registry: Registry[Any], part: Mapping[str, Any]) -> dict[str, Any]:
    name = part["name"]
    return {"name": name, **registry.options(name), **part}


def origin(source: str, *, sha256: str, license: str | None, **more: Any) -> dict[str, Any]:
    """Returns what ``model.json`` says about the origin of weights.

    Args:
        source: The name or file that the weights were read from.
        sha256: Hash of the file.
        license: License as the source states it; None if it states none.
        **more: Anything else that a reader of ``model.json`` should know.
    """
    return {
        "source": source,
        "sha256": sha256,
        "licence": license or "not stated",
        "converted_by": f"mbv2kit {mbv2kit.__version__}",
        **more,
    }


def scaled(values: Sequence[float], factor: float) -> Triple:
    """Multiplies three numbers, without the rounding errors that a factor of 1/255 leaves in their last digits."""
    first, second, third = (round(value * factor, 6) for value in values)
    return first, second, third


def gray(mean: Sequence[float]) -> int:
    """Returns the gray value that is nearest to zero after a network subtracts ``mean``, both in 0..255.

    It should fill the part of an input that the image does not cover: DeepLab finds objects in a border of another
    value.
    """
    return min(255, max(0, round(sum(mean) / len(mean))))


def translate(tensors: Mapping[str, Tensor], modules: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """Renames tensors, module by module.

    Args:
        tensors: Tensors by the origin's names, such as ``features.0.1.running_mean``.
        modules: The origin's name of each module, such as ``features.0.1``, and the name in mbv2kit.

    Returns:
        The tensors of those modules by their new names, and the names of all other tensors.
    """
    renamed: dict[str, Tensor] = {}
    others: list[str] = []
    for name, tensor in tensors.items():
        module, _, values = name.rpartition(".")
        if module in modules:
            renamed[f"{modules[module]}.{values}"] = tensor
        else:
            others.append(name)
    return renamed, others


def find_width(tensors: Mapping[str, Tensor], backbone: str, **options: Any) -> float:
    """Returns the width at which most tensors of a backbone have these shapes.

    Args:
        tensors: Tensors by the names of the model, such as ``backbone.layers.layer_1.conv.weight``.
        backbone: Name of the backbone.
        **options: Other arguments of the backbone.
    """
    shapes = {name.removeprefix("backbone."): tensor.shape for name, tensor in tensors.items()}
    best, most = 1.0, -1
    for width in _WIDTHS:
        with torch.device("meta"):
            wanted = dict(create_backbone(backbone, width=width, **options).named_parameters())
        matches = sum(shapes.get(name) == tensor.shape for name, tensor in wanted.items())
        if matches > most:
            best, most = width, matches
        if matches == len(wanted):
            break
    return best
