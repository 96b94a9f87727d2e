"""One small interface to everything that can run an exported network."""

from mbv2kit.inference.runtimes.base import RUNTIMES, RuntimeName, open_session

__all__ = ["RUNTIMES", "RuntimeName", "open_session"]
