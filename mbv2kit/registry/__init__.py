"""Names of parts and what builds them: those of this package, and those that plugins add."""

from mbv2kit.registry.base import Registry

__all__ = ["Registry"]
