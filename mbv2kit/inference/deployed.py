"""A model as it is used: inputs in, predictions out, whatever computes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mbv2kit.imaging.postprocess import NmsOptions, Outputs, postprocess
from mbv2kit.imaging.preprocess import Placement, Preprocess
from mbv2kit.inference.runtimes import Session
from mbv2kit.models.spec import ModelSpec
from mbv2kit.structures import Prediction, Task


class DeployedModel:
    """A network that is open in a runtime, with what its spec says about inputs and classes.

    Args:
        spec: Of the model.
        open_session: Opens the network for a number of threads.
        threads: How many may work on one call.
        size: Height and width of the network's input.
        batch: Images at a time that the network takes; None for any number.
        nms_options: Which boxes a detector shows; None for the other tasks.
    """

    def __init__(
        self,
        spec: ModelSpec,
        open_session: Callable[[int], Session],
        threads: int,
        *,
        size: tuple[int, int],
        batch: int | None = None,
        nms_options: NmsOptions | None = None,
    ) -> None:
        self.input: Preprocess = replace(spec.input, size=size)
        self.class_names: Mapping[Task, Sequence[str]] = spec.class_names
        self.batch = batch
        self._spec = spec
        self._open = open_session
        self._threads = threads
        self._nms_options = nms_options
        self._session = open_session(threads)

    def copy(self) -> "DeployedModel":
        """Opens the same network once more, to run beside this one on as many threads."""
        return DeployedModel(
            self._spec, self._open, self._threads, size=self.input.size, batch=self.batch, nms_options=self._nms_options
        )

    def outputs(self, inputs: NDArray[np.uint8]) -> Outputs:
        """Computes the arrays of ``imaging.postprocess`` for any number of inputs, ``(B, H, W, 3)`` uint8 RGB."""
        if self.batch is None or len(inputs) == self.batch:
            return self._session(inputs)
        parts = []
        for start in range(0, len(inputs), self.batch):
            part = inputs[start : start + self.batch]
            missing = self.batch - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            parts.append({name: array[: len(part)] for name, array in self._session(filled).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def read(self, outputs: Outputs, placements: Sequence[Placement]) -> list[dict[Task, Prediction]]:
        """Reads the answers to a batch.

        Args:
            outputs: What :meth:`answer` returned.
            placements: Where each image lies in its input.

        Returns:
            For each image the prediction of each task, in the pixels of the image.
        """
        found = {task: postprocess(task, outputs, self.input.size, self._nms_options) for task in self.class_names}
        return [
            {task: placement.restore(predictions[i]) for task, predictions in found.items()}
            for i, placement in enumerate(placements)
        ]
