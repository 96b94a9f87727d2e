"""Reads data sets that `mbv2kit make-shards` has written: tars and an index, in a folder or behind a URL."""

from mbv2kit.data.sources.shards.source import Shards

__all__ = ["Shards"]
