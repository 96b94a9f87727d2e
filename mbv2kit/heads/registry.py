"""The contract of a head, and the registry that finds it by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, ItemsView, Iterable, Mapping, Sequence, ValuesView
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbv2kit.errors import UserError
from mbv2kit.imaging.postprocess import NmsOptions, postprocess
from mbv2kit.nn.features import FeatureInfo
from mbv2kit.registry import Registry
from mbv2kit.structures import Prediction, Task

Raw = dict[str, Tensor]
Targets = Mapping[str, Any]
# (N, 2): width and height of N boxes.
Shapes = NDArray[np.float64]
# Their attributes are no names of heads.
_MODULES, _PARAMETERS = nn.ModuleDict(), nn.ParameterDict()


class Head(nn.Module, ABC):
    """Computes raw tensors from feature maps, and a loss or predictions from raw tensors.

    ``forward`` and ``outputs`` have no control flow that depends on data, so that a head can be exported; ``loss`` and
    ``decode`` may have.

    Attributes:
        task: Task of the head.
        features: Names of the feature maps that it reads.
        nms_options: NMS options of a detector; None for other tasks.
    """

    task: ClassVar[Task]
    # Options that decide what its weights mean, such as anchors; they follow the weights that a run starts from.
    weight_options: ClassVar[frozenset[str]] = frozenset()
    # Options whose default is another one next to other heads.
    next_to_others: ClassVar[Mapping[str, Any]] = {}
    # Those among them without which no weight means what it meant, such as the epsilon of its norms.
    fixed_options: ClassVar[frozenset[str]] = frozenset()
    # Its part that predicts boxes; None for other tasks.
    box_predictor: ClassVar[str | None] = None
    # What a loss is divided by at least, where nothing in a batch counts.
    least_count: ClassVar[float] = 1.0
    # Steps below which it may predict next to nothing if it starts from fresh weights.
    fewest_steps: ClassVar[int] = 0
    features: tuple[str, ...]
    nms_options: NmsOptions | None = None

    @classmethod
    def options_from_data(cls, options: Mapping[str, Any], box_shapes: Callable[[], Shapes]) -> dict[str, Any]:
        """Returns a head's options, including those that depend on the training data; the base class has none.

        Args:
            options: Arguments of the constructor, as a config has them.
            box_shapes: Returns the width and height of every object of the training split, ``(N, 2)`` in fractions of
                the input's; it may read every image, so it is called only if needed.
        """
        return dict(options)

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor]) -> Raw:
        """Computes the raw tensors from ``(B, C, H, W)`` maps; each class documents its own."""

    @abstractmethod
    def loss(self, raw: Raw, targets: Targets) -> dict[str, Tensor]:
        """Computes the terms of the loss, which are scalars to be summed.

        Args:
            raw: What ``forward`` returned.
            targets: ``size``, the (height, width) of the input, and the keys of the head's task: ``label`` ``(B,)``;
                ``boxes`` ``[(N, 4)]`` in input pixels, ``labels`` ``[(N,)]`` and ``crowd`` ``[(N,)]``, a tensor per
                image; ``mask`` ``(B, H, W)``, 255 = ignore.
        """

    @torch.no_grad()
    def count(self, raw: Raw, targets: Targets) -> Tensor:
        """Returns what the loss is a mean over, a scalar; in the base class it is the number of images.

        Args:
            raw: What ``forward`` returned for an input of that size, maybe of other images.
            targets: As for :meth:`loss`.
        """
        values = next(value for key, value in targets.items() if key != "size")
        return torch.full((), len(values), device=next(iter(raw.values())).device)

    @abstractmethod
    def outputs(self, raw: Raw, size: tuple[int, int]) -> Raw:
        """Computes the tensors that ``imaging.postprocess.postprocess`` reads; it can be exported, like ``forward``.

        Args:
            raw: What ``forward`` returned.
            size: (height, width) of the input.

        Returns:
            The tensors of the head's task, by their names in :mod:`mbv2kit.imaging.postprocess`.
        """

    def at_scale(self, raw: Raw, scale: tuple[float, float]) -> Raw:
        """Returns the raw tensors of an input that is enlarged or reduced, ready for :meth:`outputs`.

        A network has learned how many pixels an object lies from an anchor and how many times as large it is, so
        anchors keep their pixels in an input of another size: they are a smaller share of a larger one. The base class
        has none.

        Args:
            raw: What ``forward`` returned.
            scale: Height and width of the input as factors on those of the usual one.
        """
        return raw

    @torch.no_grad()
    def decode(self, raw: Raw, size: tuple[int, int]) -> list[Prediction]:
        """Converts raw tensors to a prediction for each image, in input pixels.

        Args:
            raw: What ``forward`` returned.
            size: (height, width) of the input.
        """
        outputs = {name: tensor.cpu().numpy() for name, tensor in self.outputs(raw, size).items()}
        return postprocess(self.task, outputs, size, self.nms_options)


class HeadDict(nn.ModuleDict):
    """The heads of a model by name; a ``ModuleDict`` with the type of its values.

    Raises:
        UserError: A name has a meaning in PyTorch, such as ``type``.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        check_names(heads)
        super().__init__(heads)

    def __getitem__(self, name: str) -> Head:
        """Returns the head of a name."""
        return cast(Head, super().__getitem__(name))

    def values(self) -> ValuesView[Head]:
        """Returns the heads, in the order of the spec."""
        return cast(ValuesView[Head], super().values())

    def items(self) -> ItemsView[str, Head]:
        """Returns names and heads, in the order of the spec."""
        return cast(ItemsView[str, Head], super().items())


def check_names(heads: Iterable[str]) -> None:
    """Checks the names of heads.

    Raises:
        UserError: One has a meaning in PyTorch.
    """
    for name in heads:
        if hasattr(_MODULES, name) or hasattr(_PARAMETERS, name):
            raise UserError(f"A head cannot be called '{name}', which has a meaning in PyTorch; add to the name.")


HEADS: Registry[Head] = Registry("head", "mbv2kit.heads", several="heads")


def create_head(name: str, feature_info: Sequence[FeatureInfo], num_classes: int, **options: Any) -> Head:
    """Builds the head ``name`` with fresh weights.

    Args:
        name: One of :func:`list_heads`.
        feature_info: Feature maps of the backbone.
        num_classes: Number of classes, without a background that the head adds itself.
        **options: Further arguments of that head.

    Raises:
        UserError: The name or an option is unknown, a value is out of range, or a feature map is missing.
    """
    return HEADS.create(name, feature_info, num_classes, **options)


def options_from_data(options: Mapping[str, Any], box_shapes: Callable[[], Shapes]) -> dict[str, Any]:
    """Adds the options that depend on the training data, for the head that ``options`` names; see :class:`Head`.

    Raises:
        UserError: The name is unknown, or the data lack what the head needs.
    """
    return HEADS.get_class(options["name"]).options_from_data(options, box_shapes)


def list_heads() -> list[str]:
    """Returns the names of all heads in alphabetical order."""
    return HEADS.names()
