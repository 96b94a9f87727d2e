"""Tells URLs from paths."""

import re
from pathlib import Path

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.ASCII)


def is_url(location: str) -> bool:
    """Returns whether a location is a URL, such as ``https://host/folder`` or ``s3://bucket/folder``, and no path."""
    return _SCHEME.match(location) is not None


def resolved(location: str) -> str:
    """Returns a URL as it is, and the path of anything else without links, for messages."""
    return location if is_url(location) else str(Path(location).resolve())
