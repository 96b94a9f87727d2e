"""The contract of a backbone, and the registry that finds it by name."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mbv2kit.features import FeatureInfo, find_feature
from mbv2kit.registry import Registry


class Backbone(nn.Module, ABC):
    """A network from images to named feature maps, which come in the order of ``feature_info``.

    Attributes:
        feature_info: The maps it can give, from the finest to the deepest.
        selected: Names of the maps that ``forward`` returns; all of them until :meth:`select` is called.
    """

    feature_info: tuple[FeatureInfo, ...]
    selected: tuple[str, ...]

    def select(self, names: Iterable[str]) -> None:
        """Keeps only the maps ``names`` and drops the layers behind the deepest of them.

        Raises:
            UserError: A name is not in ``feature_info``.
        """
        wanted = {find_feature(self.feature_info, name).name for name in names}
        self.selected = tuple(info.name for info in self.feature_info if info.name in wanted)
        self.drop_layers_behind(self.selected[-1])

    @abstractmethod
    def drop_layers_behind(self, name: str) -> None:
        """Removes every layer that the map ``name`` and those before it do not need."""

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the selected maps.

        Args:
            images: ``(B, 3, H, W)``, normalised floats.

        Returns:
            For each selected name ``(B, channels, ceil(H / stride), ceil(W / stride))``.
        """


BACKBONES: Registry[Backbone] = Registry("backbone", "mbv2kit.backbones")


def create_backbone(name: str, width: float = 1.0, output_stride: int = 32, **options: Any) -> Backbone:
    """Builds the backbone ``name`` with fresh weights.

    Args:
        name: One of :func:`list_backbones`.
        width: Factor on the number of channels.
        output_stride: Input pixels per step of the deepest map: 8, 16 or 32. Below 32 strides become dilation.
        **options: Further arguments of that backbone.

    Raises:
        UserError: The name or an option is unknown, or a value is out of range.
    """
    return BACKBONES.create(name, width=width, output_stride=output_stride, **options)


def list_backbones() -> list[str]:
    """Returns the names of all backbones in alphabetical order."""
    return BACKBONES.names()
