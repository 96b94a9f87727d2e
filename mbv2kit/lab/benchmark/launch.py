"""Runs a process from its start to its end, with its time and its memory."""

import os
import re
import select
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from time import perf_counter

from mbv2kit.lab.benchmark.competitor import Finished
from mbv2kit.lab.benchmark.workers import CompetitorError, environment, last_line
from mbv2kit.process import read_system_file

_SAMPLE_SECONDS = 0.02
_SERIES_SECONDS = 0.25
_PATIENCE = 900.0
_MEMORY = re.compile(r"^Vm(HWM|RSS):\s+(\d+) kB", re.MULTILINE)


def run_command(command: Sequence[str], places: Mapping[str, str]) -> Finished:
    """Runs a command in an empty folder of its own, which is ``{output}`` in its arguments.

    Args:
        command: Arguments; names in braces are filled in.
        places: What to fill in, by name.

    Raises:
        ContenderError: It cannot be started, ended with another code than 0, or did not end.
    """
    with TemporaryDirectory() as output, TemporaryFile() as errors:
        arguments = [fill(argument, {**places, "output": output}) for argument in command]
        start = perf_counter()
        try:
            process = subprocess.Popen(
                arguments,
                cwd=output,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        except OSError as error:
            raise CompetitorError(f"{arguments[0]}: {error.strerror}") from None
        try:
            finished = _watch(process, start)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise CompetitorError(f"ended with code {process.returncode}{last_line(errors)}")
    return finished


def fill(argument: str, places: Mapping[str, str]) -> str:
    """Puts values in the place of their names in braces."""
    for name, value in places.items():
        argument = argument.replace(f"{{{name}}}", value)
    return argument


def _watch(process: "subprocess.Popen[bytes]", start: float) -> Finished:
    """Waits for a process to end and follows its memory meanwhile."""
    status = Path(f"/proc/{process.pid}/status")
    peak, series = 0.0, [(0.0, 0.0)]
    end = os.pidfd_open(process.pid)
    try:
        while not select.select([end], [], [], _SAMPLE_SECONDS)[0]:
            now = perf_counter() - start
            if now > _PATIENCE:
                raise CompetitorError(f"not ended after {_PATIENCE:g} s")
            # The kernel keeps the peak of this very program; getrusage's begins with the size of the parent.
            memory = {name: int(kilobytes) * 1.024e-3 for name, kilobytes in _MEMORY.findall(read_system_file(status))}
            if memory:
                peak = max(peak, memory["HWM"])
                if now - series[-1][0] >= _SERIES_SECONDS:
                    series.append((round(now, 3), round(memory["RSS"], 1)))
        return Finished(seconds=perf_counter() - start, megabytes=peak, series=series[1:])
    finally:
        os.close(end)
