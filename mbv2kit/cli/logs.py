"""What a job reports: on the screen, and in the log file of its run."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path

from rich.logging import RichHandler

from mbv2kit.cli.console import open_console
from mbv2kit.texts import shown

_OWN = "mbv2kit"
_LIBRARIES = ("lightning", "lightning.pytorch", "lightning.fabric", "matplotlib", "faster_coco_eval", "fsspec")
_HELD_LINES = 1000


class _Line(logging.Formatter):
    """Formats a message in which names from files have no effect on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(shown, super().format(record).split("\n")))


_LINE = _Line("%(asctime)s %(levelname)s %(message)s")
# Beginnings of warnings about what is meant to be as it is.
_ADVICE = (
    ".*does not have many workers",
    ".*smaller than the logging interval",
    ".*not resumable",
    "Checkpoint directory .* exists and is not empty",
    r".*module\(s\) in eval mode at the start of training",
    r".*isinstance\(treespec, LeafSpec\)",
    # A resumed run need not stop early any more.
    ".*callbacks used to create the checkpoint need to be provided",
    # The trainer refuses what this advises to do without.
    ".*AMP with fp16 is not supported on CPU",
)


def show_log() -> None:
    """Shows on stderr what a command reports, in place of all other logging of the process.

    Call it before the imports of the job: matplotlib reports the first search for fonts when it is imported.
    """
    logging.basicConfig(level=logging.INFO, handlers=[_screen()], force=True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)


@contextmanager
def job_log() -> Iterator[None]:
    """Reports what a job does while it runs, and holds the report for :func:`log_to`.

    The report goes to the handlers of the program that runs the job, or to stderr if it has none. A level of the logger
    ``mbv2kit`` that the program has set stays; otherwise it is INFO. Libraries report warnings and errors alone. In the
    end everything is as it was.
    """
    root, own = logging.getLogger(), logging.getLogger(_OWN)
    libraries = [logging.getLogger(name) for name in _LIBRARIES]
    handlers, levels = root.handlers[:], {logger: logger.level for logger in (own, *libraries)}
    if not handlers:
        root.addHandler(_screen())
    root.addHandler(_Held(_HELD_LINES))
    own.setLevel(own.level or logging.INFO)
    for library in libraries:
        library.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for advice in _ADVICE:
                warnings.filterwarnings("ignore", advice)
            yield
    finally:
        for handler in [each for each in root.handlers if each not in handlers]:
            root.removeHandler(handler)
            handler.close()
        for logger, level in levels.items():
            logger.setLevel(level)


def log_to(file: Path) -> None:
    """Writes what the job has reported so far, and everything that follows, to ``file`` as well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = _File(file, encoding="utf-8")
    written.setFormatter(_LINE)
    root = logging.getLogger()
    for held in [handler for handler in root.handlers if isinstance(handler, _Held)]:
        for record in held.buffer:
            written.handle(record)
        root.removeHandler(held)
    root.addHandler(written)


class _File(logging.FileHandler):
    """Leaves lines out where the disk is full; what the job is about tells it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Says nothing: logging would print a traceback for each line."""


class _Held(MemoryHandler):
    """Holds a report until there is a file for it."""


def _screen() -> logging.Handler:
    """Returns a handler that writes to stderr: in color on a terminal, else one plain line for each message."""
    console = open_console(stderr=True)
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False, log_time_format="%X")
        handler.setFormatter(_Line("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_LINE)
    return handler
