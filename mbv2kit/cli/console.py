"""The screen that tables and messages are printed to."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console

# Rich takes 80 columns for what is no terminal, and cuts cells to fit.
_UNLIMITED = 10_000
_quiet = ContextVar("quiet", default=False)


def open_console(*, stderr: bool = False) -> Console:
    """Returns a console as wide as the terminal; output to a pipe or a file is neither wrapped nor cut.

    Args:
        stderr: Whether it prints to stderr rather than stdout.
    """
    console = Console(stderr=stderr, quiet=_quiet.get() and not stderr)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


@contextmanager
def no_tables() -> Iterator[None]:
    """Keeps what a job would print from stdout, for a program that gets the results as objects."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)
