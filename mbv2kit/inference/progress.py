"""A progress bar for the terminal. Only this module imports Rich, since most calls show no bar."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")


class Speed(ProgressColumn):
    """Shows the number of images per second, after two images."""

    def render(self, task: Task) -> Text:
        """Formats the speed of one bar."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


def with_bar(items: Iterable[Item], total: int) -> Iterator[Item]:
    """Yields the items, and shows progress, speed and remaining time on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description="images")
