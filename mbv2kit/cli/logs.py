"""What a job says on screen, and in its log file."""

import logging
import warnings
from logging.handlers import MemoryHandler
from pathlib import Path

from rich.logging import RichHandler

from mbv2kit.cli.console import open_console

_HELD_LINES = 1000
_LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
# Beginnings of warnings about what is meant to be as it is.
_ADVICE = (
    ".*does not have many workers",
    ".*smaller than the logging interval",
    ".*not resumable",
    "Checkpoint directory .* exists and is not empty",
    r".*module\(s\) in eval mode at the start of training",
    r".*isinstance\(treespec, LeafSpec\)",
)


def set_up_logging() -> None:
    """Sends what the run says to the screen, keeps it for :func:`log_to`, and quiets the libraries' chatter."""
    handlers = [_screen(), MemoryHandler(_HELD_LINES)]
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    for library in ("lightning", "lightning.pytorch", "lightning.fabric", "matplotlib", "faster_coco_eval", "fsspec"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for advice in _ADVICE:
        warnings.filterwarnings("ignore", advice)


def _screen() -> logging.Handler:
    """Returns a handler that writes to stderr: in color on a terminal, else one plain line for each message."""
    console = open_console(stderr=True)
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%X")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_LINE)
    return handler


def log_to(file: Path) -> None:
    """Writes what the run has said so far, and all that follows, to ``file`` as well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = logging.FileHandler(file)
    written.setFormatter(_LINE)
    root = logging.getLogger()
    for held in [handler for handler in root.handlers if isinstance(handler, MemoryHandler)]:
        for record in held.buffer:
            written.handle(record)
        root.removeHandler(held)
    root.addHandler(written)
