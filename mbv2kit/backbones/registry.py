"""The contract of a backbone, and the registry that finds it by name."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from mbv2kit.errors import UserError, nearest
from mbv2kit.nn.features import FeatureInfo, find_feature
from mbv2kit.registry import Registry
from mbv2kit.schema.rules import above


class Backbone(nn.Module):
    """A network from images to named feature maps, which come in the order of ``feature_info``.

    Attributes:
        layers: Its layers in the order in which they run. A layer has the name of its map; the name of a map within a
            layer begins with it, as ``layer_15_expansion`` in ``layer_15``.
        feature_info: The maps that it can return, from the finest to the deepest.
        selected: Names of the maps that ``forward`` returns; all of them until :meth:`select` is called.
        free_options: Options that users may set in a model that starts from published weights, because they change
            neither shapes nor the meaning of the weights.
    """

    free_options: ClassVar[frozenset[str]] = frozenset({"output_stride", "norm_momentum"})
    layers: nn.ModuleDict
    feature_info: tuple[FeatureInfo, ...]
    selected: tuple[str, ...]

    def select(self, names: Iterable[str]) -> None:
        """Keeps only the maps ``names`` and drops the layers after the deepest of them.

        Raises:
            UserError: A name is not in ``feature_info``.
        """
        wanted = {find_feature(self.feature_info, name).name for name in names}
        self.selected = tuple(info.name for info in self.feature_info if info.name in wanted)
        for behind in list(self.layers)[len(self.layers_until(self.selected[-1])) :]:
            del self.layers[behind]

    def layers_until(self, name: str) -> list[nn.Module]:
        """Returns the layers that the map ``name`` needs, including the whole layer that contains it.

        Raises:
            UserError: The backbone has no layer with such a map, or has dropped it.
        """
        for position, layer in enumerate(self.layers):
            if name == layer or name.startswith(f"{layer}_"):
                return list(self.layers.values())[: position + 1]
        raise UserError(f"The backbone has no layer '{name}'.{nearest(name, self.layers)}")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Computes the selected maps by running one layer after the other; other networks override this.

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


# Factor on the channels of a network; eight times as wide has 64 times the weights.
Width = Annotated[float, above(0, 8)]


BACKBONES: Registry[Backbone] = Registry("backbone", "mbv2kit.backbones")


# Values of networks with a single width and without a dilated variant.
_FIXED: Mapping[str, float] = {"width": 1.0, "output_stride": 32}


def create_backbone(name: str, **options: Any) -> Backbone:
    """Builds the backbone ``name`` with fresh weights.

    Args:
        name: One of :func:`list_backbones`.
        **options: Options of that backbone.

    Raises:
        UserError: The name or an option is unknown, or a value is out of range.
    """
    return BACKBONES.create(name, **options)


def without_fixed_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Removes ``width`` and ``output_stride`` from the options of a backbone that has no such option.

    Older model files have these options for all backbones, and a task may set an output stride.

    Args:
        options: Name and options of the backbone.

    Raises:
        UserError: The name is unknown, or the backbone does not support that width or output stride.
    """
    name, known = options["name"], BACKBONES.options(options["name"])
    for option, fixed in _FIXED.items():
        if option in options and option not in known and options[option] != fixed:
            raise UserError(
                f"backbone '{name}' has a fixed {option} of {fixed}, got {options[option]}; set it to {fixed}, or "
                "choose another backbone."
            )
    return {key: value for key, value in options.items() if key in known or key not in _FIXED}


def list_backbones() -> list[str]:
    """Returns the names of all backbones in alphabetical order."""
    return BACKBONES.names()
