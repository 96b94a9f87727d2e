"""Competitors that need nothing but Python, for workers that the tests start."""

import os
from pathlib import Path
from time import sleep

from mbv2kit.lab.benchmark.setup import Ready


def quick(threads: int, seconds: float = 0.001, files: dict[str, str] | None = None) -> Ready:
    """Sleeps for the time that it shall take."""
    return Ready({"whole": lambda: sleep(seconds), "network": lambda: sleep(seconds / 2)}, {"threads": threads})


def printing() -> Ready:
    """Writes to stdout, as libraries do, in the midst of the answers."""
    print("Welcome to this library!")
    os.system("echo and to its subprocess")
    return Ready({"whole": lambda: print("called")})


def broken(threads: int) -> Ready:
    """Cannot be set up."""
    raise ValueError("there is no\nnetwork in this file")


def breaking(threads: int, after: int) -> Ready:
    """Ends its process in the midst of a call, when it was called a number of times."""
    calls = iter(range(after))

    def whole() -> None:
        if next(calls, None) is None:
            os.write(2, b"Fatal: out of luck\n")
            os._exit(3)

    return Ready({"whole": whole})


def silent() -> Ready:
    """Takes longer than anyone waits."""
    sleep(600)
    return Ready({})


def write(path: str, files: dict[str, str], text: str) -> Ready:
    """Makes a material: a file, with what its own materials hold before it."""
    before = "".join(Path(file).read_text() for file in files.values())
    Path(path).write_text(before + text)
    return Ready({})
