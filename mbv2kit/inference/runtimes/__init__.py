"""One small interface to everything that can run an exported network."""

from mbv2kit.inference.runtimes.base import Session, open_session

__all__ = ["Session", "open_session"]
