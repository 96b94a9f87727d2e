"""The contract of a head, and the registry that finds it by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, ItemsView, Mapping, Sequence, ValuesView
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv2kit.imaging.postprocess import NmsOptions, postprocess
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.registry import Registry
from mbv2kit.structures import Prediction, Task

Raw = dict[str, Tensor]
Targets = Mapping[str, Any]
# (N, 2): width and height of N boxes.
Shapes = NDArray[np.float64]


class Head(nn.Module, ABC):
    """From feature maps to raw tensors, and from raw tensors to a loss or to predictions.

    ``forward`` and ``answer`` hold no control flow on data, so that a head can be exported; what depends on data is in
    ``loss`` and ``decode``.

    Attributes:
        task: What kind of prediction the head makes.
        features: Names of the feature maps that it reads.
        nms_options: Which of its boxes a detector shows; None for the other tasks.
    """

    task: ClassVar[Task]
    features: tuple[str, ...]
    nms_options: NmsOptions | None = None

    @classmethod
    def options_from_data(cls, options: Mapping[str, Any], box_shapes: Callable[[], Shapes]) -> dict[str, Any]:
        """Returns a head's options with those filled in that depend on the training data; here there are none.

        Args:
            options: Arguments of the constructor, as a config has them.
            box_shapes: Gives the width and height of every object of the training split, ``(N, 2)`` in shares of the
                input's; it may have to read every image, so it is called only where it is needed.
        """
        return dict(options)

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Computes the raw tensors from ``(B, C, H, W)`` maps; each class documents its own."""

    @abstractmethod
    def loss(self, raw: Raw, targets: Targets) -> dict[str, Tensor]:
        """Computes the terms of the loss, scalars that are to be added up.

        Args:
            raw: What ``forward`` returned.
            targets: ``size``, the (height, width) of the input, and of the keys ``label`` ``(B,)``; ``boxes``
                ``[(N, 4)]`` in input pixels, ``labels`` ``[(N,)]`` and ``crowd`` ``[(N,)]``, a tensor an image;
                ``mask`` ``(B, H, W)``, 255 = ignore: those of the head's task.
        """

    @abstractmethod
    def outputs(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """Computes the tensors that ``imaging.postprocess.postprocess`` reads; exportable, as ``forward`` is.

        Args:
            raw: What ``forward`` returned.
            size: (height, width) of the input.

        Returns:
            The tensors of the head's task by the names that :mod:`mbv2kit.imaging.postprocess` gives them.
        """

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> list[Prediction]:
        """Turns raw tensors into a prediction for each image, in input pixels.

        Args:
            raw: What ``forward`` returned.
            size: (height, width) of the input.
        """
        outputs = {name: tensor.cpu().numpy() for name, tensor in self.outputs(raw, size).items()}
        return postprocess(self.task, outputs, size, self.nms_options)


class HeadDict(nn.ModuleDict):
    """The heads of a model by task; a ``ModuleDict`` that knows what it holds."""

    def __getitem__(self, task: str) -> Head:
        """Returns the head of a task."""
        return cast(Head, super().__getitem__(task))

    def values(self) -> ValuesView[Head]:
        """Returns the heads, in the order of the spec."""
        return cast(ValuesView[Head], super().values())

    def items(self) -> ItemsView[str, Head]:
        """Returns tasks and heads, in the order of the spec."""
        return cast(ItemsView[str, Head], super().items())


HEADS: Registry[Head] = Registry("head", "mbv2kit.heads")


def create_head(name: str, feature_info: Sequence[FeatureInfo], num_classes: int, **options: Any) -> Head:
    """Builds the head ``name`` with fresh weights.

    Args:
        name: One of :func:`list_heads`.
        feature_info: What the backbone can give.
        num_classes: Classes to tell apart; a background that the head adds for itself does not count.
        **options: Further arguments of that head.

    Raises:
        UserError: The name or an option is unknown, a value is out of range, or a feature map is missing.
    """
    return HEADS.create(name, feature_info, num_classes, **options)


def options_from_data(options: Mapping[str, Any], box_shapes: Callable[[], Shapes]) -> dict[str, Any]:
    """Fills in what the training data decide about the head that ``options`` names; see :class:`Head`.

    Raises:
        UserError: The name is unknown, or the data do not hold what the head needs.
    """
    return HEADS.get_class(options["name"]).options_from_data(options, box_shapes)


def list_heads() -> list[str]:
    """Returns the names of all heads in alphabetical order."""
    return HEADS.names()
