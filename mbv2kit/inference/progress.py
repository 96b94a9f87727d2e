"""A bar for people who watch images being seen; Rich is imported here alone, since most calls have no watcher."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")


class Speed(ProgressColumn):
    """Says how many images there are a second, once there have been two."""

    def render(self, task: Task) -> Text:
        """Says it of one bar."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


def with_bar(items: Iterable[Item], total: int) -> Iterator[Item]:
    """Yields the items, and shows on stderr how many of ``total`` there were, how fast, and how long the rest takes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description="pictures")
