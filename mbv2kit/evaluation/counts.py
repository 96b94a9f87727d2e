"""Counts as metrics of torchmetrics, so that they add up over processes."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric


class Counts(Metric):
    """Counts how often each of some numbers occurs.

    Args:
        size: The numbers are ``0..size - 1``.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.add_state("counts", default=torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, numbers: ArrayLike) -> None:
        """Adds ``(N,)`` numbers; the caller refuses or drops those out of range."""
        numbers = np.asarray(numbers, dtype=np.int64)
        counts = self.counts.numpy()
        if numbers.size < counts.size:
            np.add.at(counts, numbers, 1)
        else:
            counts += np.bincount(numbers, minlength=counts.size)

    def compute(self) -> Tensor:
        """Returns ``(size,)`` int64."""
        return self.counts.clone()

    def array(self) -> NDArray[np.int64]:
        """Returns the counts of all processes, zeros before the first update."""
        return np.asarray((self.compute() if self.update_called else self.counts).reshape(-1))


class ConfusionMatrix:
    """Counts how often each true class is predicted as each class.

    It counts with numpy: torchmetrics' own class adds up a whole matrix for every image, which takes longer than the
    network if there are a thousand classes.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._pairs = Counts(classes**2)

    def update(self, ground_truth: ArrayLike, predicted: ArrayLike) -> None:
        """Adds pairs of classes.

        Args:
            ground_truth: ``(N,)`` class ids in ``0..classes - 1``; the caller refuses or drops other ids.
            predicted: ``(N,)`` class ids in the same range.
        """
        # int64 before the product, because uint8 masks would overflow.
        self._pairs.update(np.asarray(ground_truth, np.int64) * self._classes + np.asarray(predicted, np.int64))

    def matrix(self) -> NDArray[np.int64]:
        """Returns ``(classes, classes)``; the row is the true class, the column the predicted one."""
        return self._pairs.array().reshape(self._classes, self._classes)
