"""What must never be loaded."""

import os
from collections.abc import Callable
from pathlib import Path


class Trap:
    """What pickle turns into a command when it is loaded: it makes the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)
