"""Data sets by name; a file in this package that registers a :class:`Source` adds one."""

from mbv2kit.data.sources.base import SOURCES, EncodedImage, Source, check_source, create_source, open_source

__all__ = ["SOURCES", "EncodedImage", "Source", "check_source", "create_source", "open_source"]
