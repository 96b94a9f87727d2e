"""The contract of a backbone, and the registry that finds it by name."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from mbv2kit.errors import UserError, nearest
from mbv2kit.nn.features import FeatureInfo, find_feature
from mbv2kit.registry import Registry


class Backbone(nn.Module):
    """A network from images to named feature maps, which come in the order of ``feature_info``.

    Attributes:
        layers: Its parts in the order in which they run. Each is called like its map; a map within it is called
            after it with an ending, as ``layer_15_expansion`` lies in ``layer_15``.
        feature_info: The maps it can give, from the finest to the deepest.
        selected: Names of the maps that ``forward`` returns; all of them until :meth:`select` is called.
    """

    layers: nn.ModuleDict
    feature_info: tuple[FeatureInfo, ...]
    selected: tuple[str, ...]

    def select(self, names: Iterable[str]) -> None:
        """Keeps only the maps ``names`` and drops the layers behind the deepest of them.

        Raises:
            UserError: A name is not in ``feature_info``.
        """
        wanted = {find_feature(self.feature_info, name).name for name in names}
        self.selected = tuple(info.name for info in self.feature_info if info.name in wanted)
        for behind in list(self.layers)[len(self.layers_until(self.selected[-1])) :]:
            del self.layers[behind]

    def layers_until(self, name: str) -> list[nn.Module]:
        """Returns the layers that the map ``name`` needs; the one that it lies in comes whole.

        Raises:
            UserError: The backbone has no layer with such a map, or has it no more.
        """
        for position, layer in enumerate(self.layers):
            if name == layer or name.startswith(f"{layer}_"):
                return list(self.layers.values())[: position + 1]
        raise UserError(f"The backbone has no layer '{name}'.{nearest(name, self.layers)}")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the selected maps, here with one layer behind the other; networks of another form override it.

        Args:
            images: ``(B, 3, H, W)``, normalized floats.

        Returns:
            For each selected name ``(B, channels, ceil(H / stride), ceil(W / stride))``.
        """
        maps: dict[str, Tensor] = {}
        current = images
        for name, layer in self.layers.items():
            current = layer(current)
            if name in self.selected:
                maps[name] = current
        return maps


def check_width(width: float, usual: str) -> None:
    """Raises :class:`UserError` unless the factor on the channels is above 0; ``usual`` says what the paper takes."""
    if not width > 0:
        raise UserError(f"width must be above 0 (the paper uses {usual}), got {width}.")


def check_single_width(width: float, network: str) -> None:
    """Raises :class:`UserError` unless the width is 1, for a ``network`` whose paper has no other."""
    if width != 1.0:
        raise UserError(f"width must be 1.0 (there is no other {network}), got {width}.")


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
