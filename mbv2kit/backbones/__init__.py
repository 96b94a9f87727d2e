"""Backbones: one module per paper, which registers its networks by name."""

from mbv2kit.backbones.registry import BACKBONES, Backbone, create_backbone, list_backbones, without_fixed_options

__all__ = ["BACKBONES", "Backbone", "create_backbone", "list_backbones", "without_fixed_options"]
