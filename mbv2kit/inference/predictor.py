"""Predictor: a network that is ready to run, from the network's inputs to predictions in the pixels of each image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.postprocess import NmsOptions, Outputs, postprocess
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.models.session import Session
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Image, Prediction, Task


class Predictor:
    """Preprocessing, a session and postprocessing: all that a model does with images, in any runtime.

    Args:
        spec: What the model is.
        open_session: Opens the network; called once here, and once for each copy.
        size: Height and width of the network's input; None for that of the spec.
        batch: Images at a time that the network takes; None for any number.
        nms_options: NMS options of a detector whose network does no NMS; None for the other tasks.

    Attributes:
        spec: As given.
        preprocess: How an image becomes the network's input.
        batch: As given.
    """

    def __init__(
        self,
        spec: ModelSpec,
        open_session: Callable[[], Session],
        *,
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        nms_options: NmsOptions | None = None,
    ) -> None:
        self.spec = spec
        self.preprocess: Preprocess = spec.input if size is None else replace(spec.input, size=size)
        self.batch = batch
        self._nms_options = nms_options
        self._open_session = open_session
        self._session = open_session()

    @property
    def class_names(self) -> Mapping[Task, Sequence[str]]:
        """For each task the names of its classes, by class id."""
        return self.spec.class_names

    def copy(self) -> "Predictor":
        """Opens the same network once more, to run next to this one in another thread."""
        return Predictor(
            self.spec,
            self._open_session,
            size=self.preprocess.size,
            batch=self.batch,
            nms_options=self._nms_options,
        )

    def outputs(self, images: NDArray[np.uint8]) -> Outputs:
        """Computes the network's outputs for any number of inputs, ``(B, H, W, 3)`` uint8 RGB."""
        if self.batch is None or len(images) == self.batch:
            return self._session(images)
        parts = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            missing = self.batch - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            parts.append({name: array[: len(part)] for name, array in self._session(filled).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def postprocess(self, outputs: Outputs, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Turns the outputs of a batch into predictions.

        Args:
            outputs: What :meth:`outputs` returned.
            placements: Where each image lies in its input.

        Returns:
            For each image the prediction of each task, in the pixels of the image.
        """
        decoded = {
            task: postprocess(task, outputs, self.preprocess.size, self._nms_options) for task in self.class_names
        }
        return [
            {task: placement.restore(predictions[i]) for task, predictions in decoded.items()}
            for i, placement in enumerate(placements)
        ]

    def predict(self, images: Sequence[Image]) -> list[dict[Task, Prediction]]:
        """Predicts for ``(H, W, 3)`` uint8 RGB arrays of any size; see :meth:`postprocess`."""
        if not images:
            return []
        inputs, placements = zip(*(self.preprocess(image) for image in images), strict=True)
        return self.predict_inputs(np.stack(inputs), placements)

    def predict_inputs(
        self, inputs: NDArray[np.uint8], placements: Sequence[Placement]
    ) -> list[dict[Task, Prediction]]:
        """Predicts for inputs that :attr:`preprocess` made; see :meth:`outputs` and :meth:`postprocess`."""
        return self.postprocess(self.outputs(inputs), placements)
