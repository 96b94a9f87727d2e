"""Commands that run at the same time, each in a process of its own, and share the screen."""

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO

import mbv2kit


def run_together(commands: Mapping[str, Sequence[str]], threads: int) -> dict[str, int]:
    """Runs commands of ``mbv2kit`` at the same time and prints what they report, each line after its label.

    Ctrl-C and SIGTERM reach the commands as well; this waits until they have ended.

    Args:
        commands: Arguments of each command, by its label.
        threads: Threads with which each command computes, unless ``OMP_NUM_THREADS`` is set.

    Returns:
        The exit codes, by label.
    """
    # The commands run the mbv2kit that runs here, wherever it lies, and nothing of the current folder.
    paths = [str(Path(mbv2kit.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }
    processes = {
        label: subprocess.Popen(
            [sys.executable, "-P", "-m", "mbv2kit", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        for label, arguments in commands.items()
    }
    width = max(map(len, processes), default=0)
    readers = [
        Thread(target=_print_lines, args=(f"{label:<{width}}  ", process.stdout))
        for label, process in processes.items()
    ]
    for reader in readers:
        reader.start()
    with _terminated_together(processes.values()):
        try:
            return {label: process.wait() for label, process in processes.items()}
        finally:
            # After Ctrl-C, which the terminal sends to every process.
            for process in processes.values():
                process.wait()
            for reader in readers:
                reader.join()


def _print_lines(label: str, lines: IO[str]) -> None:
    for line in lines:
        print(f"{label}{line}", end="", flush=True)


@contextmanager
def _terminated_together(processes: Collection["subprocess.Popen[str]"]) -> Iterator[None]:
    """Passes SIGTERM, which reaches this process alone, on to others."""

    def terminate(*_: object) -> None:
        for process in processes:
            process.terminate()

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
