"""A model that is served: predictors that share a queue, and what the protocol says of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mbv2kit.imaging.images import EncodedImage
from mbv2kit.imaging.postprocess import Outputs
from mbv2kit.inference.loading import Loaded
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.results import Result
from mbv2kit.models.exports import INPUT
from mbv2kit.serving.tensors import DATATYPES, TensorInfo
from mbv2kit.structures import Input

VERSION = "1"


@dataclass(frozen=True, slots=True)
class ImageJob:
    """An image to predict for.

    Attributes:
        image: The file.
        finish: What is made of its result, in the thread that predicts.
    """

    image: EncodedImage
    finish: Callable[[Result], Any]


# An image file, or an input of the network, ``(H, W, 3)``.
Job = ImageJob | Input


class ServedModel:
    """A model with a predictor for each worker.

    Args:
        name: Its name in addresses.
        loaded: The model.
        predictor: What predicts: that of ``loaded``, or one with a second model.
        workers: Batches that are computed at a time.
        min_score: Boxes of a lower score are left out, 0..1.

    Attributes:
        name: As given.
        batch_size: Images that the network takes at a time; None for any number.
        has_mask: Whether a prediction has one mask.
        platform: What runs it, as the protocol names platforms.
        inputs: The tensors that it takes.
        outputs: The tensors that it returns.
        workers: Each turns a batch of jobs into what becomes of them, in one thread at a time.

    Raises:
        UserError: The network does not run.
    """

    def __init__(self, name: str, loaded: Loaded, predictor: Predictor, *, workers: int, min_score: float) -> None:
        self.name = name
        self.batch_size = predictor.batch
        self.has_mask = list(predictor.spec.tasks.values()).count("segmentation") == 1
        runtime = predictor.runtime.partition(" ")[0]
        self.platform = f"mbv2kit_{runtime}"
        kind = predictor.preprocess.input_type if loaded.export is None else loaded.export.input
        size = predictor.preprocess.size
        self.inputs = (TensorInfo(INPUT, DATATYPES[kind], (*size, 3)),)
        predictors = [predictor, *(predictor.copy() for _ in range(workers - 1))]
        # The first pass takes longer than any other, and shows what the network returns.
        first = [each.outputs(np.zeros((1, *size, 3), np.dtype(kind))) for each in predictors]
        self.outputs = tuple(TensorInfo.of(output, array) for output, array in first[0].items())
        self.workers = [partial(_work, each, min_score) for each in predictors]

    def metadata(self) -> dict[str, Any]:
        """Returns what the protocol says of a model."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": self.platform,
            "inputs": [each.to_dict() for each in self.inputs],
            "outputs": [each.to_dict() for each in self.outputs],
        }


def _work(predictor: Predictor, min_score: float, jobs: Sequence[Job]) -> list[Any]:
    """Returns for each image file what its ``finish`` makes of its result, for each input its outputs."""
    files = [job for job in jobs if isinstance(job, ImageJob)]
    inputs = [job for job in jobs if not isinstance(job, ImageJob)]
    results = iter(predictor.predict([job.image for job in files], min_score=min_score) if files else [])
    outputs = iter(_rows(predictor.outputs(np.stack(inputs)), len(inputs)) if inputs else [])
    return [job.finish(next(results)) if isinstance(job, ImageJob) else next(outputs) for job in jobs]


def _rows(outputs: Outputs, count: int) -> list[Outputs]:
    return [{name: array[row : row + 1] for name, array in outputs.items()} for row in range(count)]
