"""Random changes to training samples: one module per preset, built by :func:`create_augment`."""

from mbv2kit.data.augment.base import PRESETS, Augment, create_augment

__all__ = ["PRESETS", "Augment", "create_augment"]
