"""Where this package keeps what it can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns the folder of the cache: ``MBV2KIT_CACHE``, or mbv2kit in the user's cache folder."""
    if chosen := os.environ.get("MBV2KIT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mbv2kit"
