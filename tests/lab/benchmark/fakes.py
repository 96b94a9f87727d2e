"""Competitors for the tests' workers that need only Python."""

import os
from pathlib import Path
from time import sleep

from mbv2kit.lab.benchmark.workload import Workload


def quick(threads: int, seconds: float = 0.001, files: dict[str, str] | None = None) -> Workload:
    """Sleeps for some time in each call."""
    return Workload({"whole": lambda: sleep(seconds), "network": lambda: sleep(seconds / 2)}, {"threads": threads})


def printing() -> Workload:
    """Writes to stdout between the replies, as some libraries do."""
    print("Welcome to this library!")
    os.system("echo and to its subprocess")
    return Workload({"whole": lambda: print("called")})


def broken(threads: int) -> Workload:
    """Fails during the setup."""
    raise ValueError("there is no\nnetwork in this file")


def breaking(threads: int, after: int) -> Workload:
    """Ends its process in a call after a number of successful ones."""
    calls = iter(range(after))

    def whole() -> None:
        if next(calls, None) is None:
            os.write(2, b"Fatal: out of luck\n")
            os._exit(3)

    return Workload({"whole": whole})


def silent() -> Workload:
    """Takes longer than any timeout."""
    sleep(600)
    return Workload({})


def write(path: str, files: dict[str, str], text: str) -> Workload:
    """Makes an asset: a file with the contents of the assets that it needs, then its own text."""
    before = "".join(Path(file).read_text() for file in files.values())
    Path(path).write_text(before + text)
    return Workload({})
