"""Optimizers by name: one file each; a file in this package that registers one adds it."""

from mbv2kit.training.optimizers.base import OPTIMIZERS, Parameters, create_optimizer, hold_back, parameter_groups

__all__ = ["OPTIMIZERS", "Parameters", "create_optimizer", "hold_back", "parameter_groups"]
