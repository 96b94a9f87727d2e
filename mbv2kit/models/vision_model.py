"""VisionModel: normalization, one backbone and one or more heads; built from a spec, kept in a model folder."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mbv2kit.backbones import create_backbone
from mbv2kit.errors import UserError, one_line
from mbv2kit.heads import Head, create_head
from mbv2kit.heads.registry import Raw
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.models.spec import DESCRIPTION_FILE, ModelSpec, read_spec
from mbv2kit.nn.tensors import images_to_tensor
from mbv2kit.structures import Image, Prediction, Task

WEIGHTS_FILE = "model.safetensors"

M = TypeVar("M", bound=nn.Module)


class VisionModel(nn.Module):
    """From uint8 images to the raw tensors of every head; the backbone runs once.

    Normalization is part of the model, so no caller can get it wrong.

    Args:
        spec: What to build; weights are fresh.

    Raises:
        UserError: A name or an argument in the spec is wrong.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.backbone = create_backbone(**spec.backbone)
        heads: dict[str, Head] = {}
        for task, options in spec.heads.items():
            arguments = {key: value for key, value in options.items() if key != "name"}
            head = create_head(options["name"], self.backbone.feature_info, len(spec.class_names[task]), **arguments)
            if head.task != task:
                raise UserError(f"head '{options['name']}' does {head.task}, but task is {task}.")
            heads[task] = head
        self.heads = nn.ModuleDict(heads)
        self.backbone.select({name for head in heads.values() for name in head.features})

    @property
    def input(self) -> Preprocess:
        """How an image becomes the network's input."""
        return self.spec.input

    @property
    def class_names(self) -> Mapping[Task, Sequence[str]]:
        """For each task the names of its classes, by class id."""
        return self.spec.class_names

    def forward(self, images: Tensor) -> dict[str, Raw]:
        """Runs the backbone and every head.

        Args:
            images: ``(B, 3, H, W)`` uint8, RGB; any size, though the spec's input size is what it was trained for.

        Returns:
            For each task the raw tensors of its head.
        """
        features = self.backbone((images.to(self.mean.dtype) - self.mean) / self.std)
        return {task: head(features) for task, head in self.heads.items()}

    @torch.no_grad()
    def decode(self, raw: Mapping[str, Raw], sizes: Sequence[tuple[int, int]]) -> dict[Task, list[Prediction]]:
        """Turns raw tensors into predictions in input pixels, for each task one an image.

        Args:
            raw: What ``forward`` returned.
            sizes: (height, width) of the input of each image.
        """
        predictions: dict[Task, list[Prediction]] = {}
        # In validation a training in bfloat16 would go on in it.
        with torch.autocast(self.mean.device.type, enabled=False):
            for head in self.heads.values():
                assert isinstance(head, Head)
                predictions[head.task] = head.decode(raw[head.task], sizes)
        return predictions

    @torch.inference_mode()
    def predict_batch(self, images: Tensor, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Sees a batch of inputs; the one way from inputs to predictions, in training as in use.

        Args:
            images: ``(B, 3, H, W)`` uint8 inputs, made by the model's input rule.
            placements: Where each image lies in its input.

        Returns:
            For each image the prediction of each task, in the pixels of the image.
        """
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        decoded = self.decode(self(images), sizes)
        return [
            {task: placement.restore(predictions[i]) for task, predictions in decoded.items()}
            for i, placement in enumerate(placements)
        ]

    def predict(self, images: Sequence[Image]) -> list[dict[Task, Prediction]]:
        """Sees images, ``(H, W, 3)`` uint8 RGB arrays of any size; see :meth:`predict_batch`."""
        return self.predict_batch(*self.prepare(images)) if images else []

    def prepare(self, images: Sequence[Image]) -> tuple[Tensor, list[Placement]]:
        """Makes a batch of inputs of some images, on the model's device, and says where each lies in its input."""
        inputs, placements = zip(*(self.input(image) for image in images), strict=True)
        return images_to_tensor(inputs).to(self.mean.device), list(placements)

    def at_output_stride(self, output_stride: int) -> "VisionModel":
        """Returns the same weights as a network of another output stride, in evaluation mode.

        DeepLabv3 is trained at 16 and evaluated at 8 as well (Table 7): a finer map from more work.

        Raises:
            UserError: The backbone does not come with that output stride, or a head then lacks a map.
        """
        backbone = {**self.spec.backbone, "output_stride": output_stride}
        model = VisionModel(replace(self.spec, backbone=backbone))
        model.load_state_dict(self.state_dict())
        return model.eval()

    def save(self, folder: Path) -> None:
        """Writes ``model.json`` and ``model.safetensors`` into ``folder``, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / DESCRIPTION_FILE).write_text(json.dumps(self.spec.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "VisionModel":
        """Builds the model of a folder that :meth:`save` wrote, on the CPU and in evaluation mode.

        Raises:
            UserError: The folder holds no model, or one that is damaged; the message names the file.
        """
        spec, description, weights = read_spec(folder), folder / DESCRIPTION_FILE, folder / WEIGHTS_FILE
        if not weights.is_file():
            raise UserError(f"{folder} is no model folder: it has no {WEIGHTS_FILE}.")
        try:
            model = cls(spec)
        except UserError as error:
            raise UserError(f"{description} does not describe a model: {error}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(f"{description} does not describe a model: {error!r}.") from None
        try:
            model.load_state_dict(load_file(weights))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"{weights} does not fit {description.name}: {one_line(error)}") from None
        return model.eval()


class ModelWrapper(ABC):
    """A model that sees images in another way than its own, with the same images in and predictions out.

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: VisionModel) -> None:
        self._model = model

    @property
    def input(self) -> Preprocess:
        """How an image becomes the network's input."""
        return self._model.input

    @property
    def class_names(self) -> Mapping[Task, Sequence[str]]:
        """For each task the names of its classes, by class id."""
        return self._model.class_names

    @abstractmethod
    def predict_batch(self, images: Tensor, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Sees a batch of inputs; see :meth:`VisionModel.predict_batch`."""

    def predict(self, images: Sequence[Image]) -> list[dict[Task, Prediction]]:
        """Sees images; see :meth:`VisionModel.predict`."""
        return self.predict_batch(*self._model.prepare(images)) if images else []


def copy_to_meta(model: M) -> M:
    """Copies a module with the shapes of its tensors alone, to torch's meta device; the weights are never copied."""
    memo: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
    return deepcopy(model, memo)
