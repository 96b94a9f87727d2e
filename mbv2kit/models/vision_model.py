"""VisionModel: normalization, one backbone and one or more heads; built from a spec, saved in a model folder."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from mbv2kit.backbones import BACKBONES, create_backbone, without_fixed_options
from mbv2kit.errors import UserError, one_line
from mbv2kit.heads import HEADS, Head, HeadDict, create_head
from mbv2kit.heads.registry import Raw
from mbv2kit.imaging.postprocess import NmsOptions, with_head
from mbv2kit.imaging.preprocess import Preprocess
from mbv2kit.models.folder import ModelFolder
from mbv2kit.models.spec import ModelSpec
from mbv2kit.nn.stored_tensors import StoredTensorsError, read_safetensors
from mbv2kit.registry.plugins import check_plugins

M = TypeVar("M", bound=nn.Module)


class VisionModel(nn.Module):
    """Computes the raw tensors of every head from uint8 images; the backbone runs once.

    Normalization is part of the model, so no caller can get it wrong.

    Args:
        spec: Description of the model, which is built with fresh weights.

    Raises:
        UserError: A name or an argument in the spec is wrong.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        check_plugins(spec.plugins, "The model")
        spec = replace(spec, backbone=without_fixed_options(spec.backbone), plugins=_plugins(spec))
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.backbone = create_backbone(**spec.backbone)
        heads: dict[str, Head] = {}
        for name, options in spec.heads.items():
            arguments = {key: value for key, value in options.items() if key != "name"}
            head = create_head(options["name"], self.backbone.feature_info, len(spec.class_names[name]), **arguments)
            if head.task != spec.tasks[name]:
                raise UserError(f"head '{options['name']}' does {head.task}, but task is {spec.tasks[name]}.")
            heads[name] = head
        self.heads = HeadDict(heads)
        self.backbone.select({name for head in heads.values() for name in head.features})

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the network's input."""
        return self.spec.input

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        """Names of the classes of each head, by class id."""
        return self.spec.class_names

    @property
    def nms_options(self) -> dict[str, NmsOptions]:
        """The NMS options of each detector."""
        return {name: head.nms_options for name, head in self.heads.items() if head.nms_options is not None}

    def forward(self, images: Tensor, rows: Mapping[str, Tensor | None] | None = None) -> dict[str, Raw]:
        """Runs the backbone and every head.

        Args:
            images: ``(B, 3, H, W)`` uint8, RGB, of any size; the model is trained for the input size of its spec.
            rows: The heads to run, each with the images that it runs on, ``(R,)`` int64, or None for all of them; None
                runs every head on all images.

        Returns:
            The raw tensors of each head.
        """
        features = self.backbone((images.to(self.mean.dtype) - self.mean) / self.std)
        if rows is None:
            return {name: head(features) for name, head in self.heads.items()}
        return {
            name: self.heads[name](features if own is None else {key: each[own] for key, each in features.items()})
            for name, own in rows.items()
        }

    @torch.no_grad()
    def outputs(self, raw: Mapping[str, Raw], size: tuple[int, int]) -> Raw:
        """Computes the tensors that :func:`~mbv2kit.imaging.postprocess.postprocess` reads, of every head.

        Args:
            raw: What ``forward`` returned.
            size: (height, width) of the input.
        """
        outputs: Raw = {}
        # Validation during training with bfloat16 would otherwise compute in bfloat16.
        with torch.autocast(self.mean.device.type, enabled=False):
            for name, head in self.heads.items():
                outputs |= with_head(name, head.outputs(raw[name], size))
        return outputs

    def at_output_stride(self, output_stride: int) -> "VisionModel":
        """Returns a model with the same weights and another output stride, in evaluation mode.

        DeepLabv3 is trained at 16 and also evaluated at 8 (Table 7), which computes a finer map at a higher cost.

        Raises:
            UserError: The backbone does not support that output stride, or a head then lacks a map.
        """
        backbone = {**self.spec.backbone, "output_stride": output_stride}
        model = VisionModel(replace(self.spec, backbone=backbone))
        model.load_state_dict(self.state_dict())
        return model.eval()

    def with_heads(self, names: Sequence[str]) -> "VisionModel":
        """Returns a model with the same weights and only some of the heads, in evaluation mode.

        Its predictions are those of this model. Backbone layers that none of the heads reads are left out. The only
        head of a task is called as the task, whatever its name was.

        Raises:
            UserError: There is no such head.
        """
        for name in names:
            if name not in self.heads:
                raise UserError(f"The model does {', '.join(self.heads)}, not {name}.")
        tasks = {name: self.spec.tasks[name] for name in names}
        called = {name: task if list(tasks.values()).count(task) == 1 else name for name, task in tasks.items()}
        spec = replace(
            self.spec,
            heads={called[name]: self.spec.heads[name] for name in names},
            class_names={called[name]: self.class_names[name] for name in names},
            tasks={called[name]: task for name, task in tasks.items()},
        )
        model = VisionModel(spec)
        state = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("heads.")}
        for before, now in called.items():
            state |= {f"heads.{now}.{name}": tensor for name, tensor in self.heads[before].state_dict().items()}
        model.load_state_dict({name: state[name] for name in model.state_dict()})
        return model.eval()

    def save(self, folder: str | Path) -> None:
        """Writes the model into a model folder, which is created if it is missing; see :class:`ModelFolder`."""
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        ModelFolder(Path(folder)).save(self.spec, serialize(weights, metadata={"format": "pt"}))

    @classmethod
    def load(cls, folder: str | Path) -> "VisionModel":
        """Builds the model of a folder that :meth:`save` wrote, on the CPU and in evaluation mode.

        Raises:
            UserError: The folder holds no model or a damaged one; the message names the file.
        """
        found = ModelFolder(Path(folder))
        spec = found.read_spec()
        if not found.weights.is_file() and found.read_exports():
            raise UserError(
                f"{folder} holds exported files and no weights ({found.weights.name}); choose what runs them, such as "
                "runtime=onnxruntime."
            )
        if not found.weights.is_file():
            raise UserError(f"{folder} is no model folder: it has no {found.weights.name}.")
        check_plugins(spec.plugins, f"The model {folder}")
        try:
            model = cls(spec)
        except UserError as error:
            raise UserError(f"{found.description} does not describe a model: {error}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"{found.description} does not describe a model: {error!r}.") from None
        try:
            tensors = read_safetensors(found.weights)
            _check_types(tensors, model)
            model.load_state_dict(tensors)
        except (StoredTensorsError, RuntimeError) as error:
            raise UserError(f"{found.weights} does not fit {found.description.name}: {one_line(error)}") from None
        return model.eval()


def _check_types(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raises RuntimeError for whole numbers in the place of weights, which torch would take as they are."""
    state = model.state_dict()
    for name in tensors.keys() & state.keys():
        if tensors[name].is_floating_point() != state[name].is_floating_point():
            raise RuntimeError(f"the tensor '{name}' is {tensors[name].dtype}, expected {state[name].dtype}")


def _plugins(spec: ModelSpec) -> tuple[str, ...]:
    heads = (HEADS.package(options["name"]) for options in spec.heads.values())
    return tuple(sorted(filter(None, {BACKBONES.package(spec.backbone["name"]), *heads})))


def copy_to_meta(model: M) -> M:
    """Copies a module to torch's meta device: with the shapes of its tensors, but without their values."""
    memo: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
    return deepcopy(model, memo)
