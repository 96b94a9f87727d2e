"""The screen that tables and messages are printed to."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mbv2kit.texts import shown

# Rich takes 80 columns for what is no terminal, and cuts cells to fit.
_UNLIMITED = 10_000
_quiet = ContextVar("quiet", default=False)


def open_console(*, stderr: bool = False) -> Console:
    """Returns a console as wide as the terminal; output to a pipe or a file is neither wrapped nor cut.

    Args:
        stderr: Whether it prints to stderr rather than stdout.
    """
    console = _Console(stderr=stderr, quiet=_quiet.get() and not stderr)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


class _Console(Console):
    """Shows escape sequences, which names in a file may hold, rather than send them to the terminal.

    All that is printed comes by here: tables, messages and progress bars.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the parts of what is printed; Rich's own commands to the terminal are parts of another kind."""
        for segment in super().render(renderable, options):
            lines = "\n".join(map(shown, segment.text.split("\n")))
            yield segment if segment.control else Segment(lines, segment.style)


@contextmanager
def no_tables() -> Iterator[None]:
    """Keeps what a job would print from stdout, for a program that gets the results as objects."""
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)
