"""Keeps this process from being forked while one of its threads fetches: the child would keep its locks for ever."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Fetches:
    """The fetches of this process, which a fork waits for."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all fetches; those of the parent are not in this process."""
        self._state = threading.Condition()
        self._count = 0
        self._forks = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts a fetch."""
        with self._state:
            self._state.wait_for(lambda: not self._forks)
            self._count += 1
        try:
            yield
        finally:
            with self._state:
                self._count -= 1
                self._state.notify_all()

    def pause(self) -> None:
        """Waits for the fetches of this process, and holds new ones back."""
        self._state.acquire()
        self._forks = True
        self._state.wait_for(lambda: not self._count)

    def go_on(self) -> None:
        """Lets fetches start again."""
        self._forks = False
        self._state.notify_all()
        self._state.release()


fetches = Fetches()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=fetches.pause, after_in_parent=fetches.go_on, after_in_child=fetches.reset)
