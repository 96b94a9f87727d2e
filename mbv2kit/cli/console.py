"""The screen that tables and messages are printed to."""

from rich.console import Console

# Rich takes 80 columns for what is no terminal, and cuts cells to fit.
_UNLIMITED = 10_000


def open_console(*, stderr: bool = False) -> Console:
    """Returns a console as wide as the terminal; output to a pipe or a file is neither wrapped nor cut.

    Args:
        stderr: Whether it prints to stderr rather than stdout.
    """
    console = Console(stderr=stderr)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console
