"""ModelSession: a model in eager mode, as in training, with the interface of every runtime."""

import torch

from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.models.vision_model import VisionModel
from mbv2kit.structures import Input


class ModelSession:
    """Runs a model with its norms unfolded, so that its metrics equal those of training to the last digit.

    Args:
        model: Model in evaluation mode, on any device.
    """

    def __init__(self, model: VisionModel) -> None:
        self._model = model

    @torch.inference_mode()
    def __call__(self, images: Input) -> Outputs:
        """Computes the outputs for ``(B, H, W, 3)`` RGB inputs."""
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).to(self._model.mean.device)
        outputs = self._model.outputs(self._model(tensor), (images.shape[1], images.shape[2]))
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
