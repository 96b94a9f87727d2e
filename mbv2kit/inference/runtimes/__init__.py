"""The runtimes of exported networks, behind one interface."""

from mbv2kit.inference.runtimes.base import RUNTIMES, RuntimeName, open_session

__all__ = ["RUNTIMES", "RuntimeName", "open_session"]
