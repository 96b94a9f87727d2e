"""Descriptions of a backbone's feature maps, by which a head chooses among them without knowing the network."""

from collections.abc import Sequence
from dataclasses import dataclass

from mbv2kit.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """One feature map that a backbone can return.

    Attributes:
        name: Key of the map in the backbone's output.
        channels: Number of channels.
        stride: Input pixels per step of the map.
    """

    name: str
    channels: int
    stride: int


def find_feature(features: Sequence[FeatureInfo], name: str) -> FeatureInfo:
    """Returns the map called ``name``; raises :class:`UserError` with the nearest name if there is none."""
    for feature in features:
        if feature.name == name:
            return feature
    raise UserError(f"The backbone has no feature map '{name}'.{nearest(name, [f.name for f in features])}")


def deepest_feature(features: Sequence[FeatureInfo], stride: int) -> FeatureInfo:
    """Returns the last map of ``stride``; raises :class:`UserError` with the available strides if there is none."""
    for feature in reversed(features):
        if feature.stride == stride:
            return feature
    strides = sorted({feature.stride for feature in features})
    raise UserError(f"The backbone has no feature map of stride {stride}, only of {strides}; name the maps yourself.")


def choose_maps(
    features: Sequence[FeatureInfo], names: Sequence[str] | None, strides: Sequence[int]
) -> list[FeatureInfo]:
    """Returns the maps called ``names``, or the deepest map of each of ``strides`` if ``names`` is None.

    Raises:
        UserError: There is no such map.
    """
    if names is None:
        return [deepest_feature(features, stride) for stride in strides]
    return [find_feature(features, name) for name in names]
