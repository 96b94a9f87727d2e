"""Models that torch runs, behind the interface of those that were exported."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference.deployed import DeployedModel
from mbv2kit.inference.runtimes import Session
from mbv2kit.inference.runtimes.torch import TorchSession
from mbv2kit.models.export_network import ExportNetwork
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Prediction, Task


class SeesTensors(Protocol):
    """A model that takes tensors: one that augments, or splits its blocks."""

    @property
    def input(self) -> Preprocess:
        """How an image becomes the network's input."""

    @property
    def class_names(self) -> Mapping[Task, Sequence[str]]:
        """For each task of the model the names of its classes, by class id."""

    def predict_batch(self, images: Tensor, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Sees ``(B, 3, H, W)`` uint8 inputs."""


class TensorModel:
    """Hands arrays on to a model that takes tensors; see :class:`~mbv2kit.inference.predictor.ImageModel`."""

    batch: int | None = None

    def __init__(self, model: SeesTensors) -> None:
        self.input = model.input
        self.class_names = model.class_names
        self._model = model

    def copy(self) -> "TensorModel":
        """Returns the model itself, since torch can run it for several callers at a time."""
        return self

    def outputs(self, inputs: NDArray[np.uint8]) -> list[dict[Task, Prediction]]:
        """Returns the predictions for ``(B, H, W, 3)`` uint8 inputs, in pixels of the input."""
        size = (inputs.shape[1], inputs.shape[2])
        return self._model.predict_batch(
            torch.from_numpy(inputs).permute(0, 3, 1, 2), [Placement(size, size)] * len(inputs)
        )

    def read(
        self, outputs: Sequence[dict[Task, Prediction]], placements: Sequence[Placement]
    ) -> list[dict[Task, Prediction]]:
        """Carries predictions over to the pixels of each image."""
        return [
            {task: placement.restore(prediction) for task, prediction in predictions.items()}
            for predictions, placement in zip(outputs, placements, strict=True)
        ]


def deploy(model: VisionModel, *, compiled: bool = False, min_score: float = 0.0) -> DeployedModel:
    """Returns a model as torch runs it at its best: norms folded, and compiled for this machine if so wished."""
    network = ExportNetwork(model).eval()

    def open_session(threads: int) -> Session:
        return TorchSession(network, network.output_names, compiled=compiled)

    nms_options = network.nms_options and network.nms_options.at_least(min_score)
    return DeployedModel(model.spec, open_session, torch.get_num_threads(), size=network.size, nms_options=nms_options)
