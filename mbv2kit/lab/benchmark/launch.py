"""Runs a process to its end and measures its time and memory."""

import os
import re
import select
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from time import perf_counter

from mbv2kit.lab.benchmark.competitor import FinishedProcess
from mbv2kit.lab.benchmark.worker import CompetitorError, environment, last_line
from mbv2kit.process import read_system_file

_SAMPLE_SECONDS = 0.02
_SERIES_SECONDS = 0.25
_PATIENCE = 900.0
_MEMORY = re.compile(r"^Vm(HWM|RSS):\s+(\d+) kB", re.MULTILINE)


def run_command(command: Sequence[str], places: Mapping[str, str]) -> FinishedProcess:
    """Runs a command in a new empty folder, which replaces ``{output}`` in its arguments.

    Args:
        command: Arguments with placeholders in braces.
        places: Values of the placeholders.

    Raises:
        CompetitorError: The command cannot be started, does not end in time, or fails.
    """
    with TemporaryDirectory() as output, TemporaryFile() as errors:
        arguments = [fill(argument, {**places, "output": output}) for argument in command]
        start = perf_counter()
        try:
            process = subprocess.Popen(
                arguments,
                cwd=output,
                env=environment(arguments[0]),
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
    """Replaces names in braces by their values."""
    for name, value in places.items():
        argument = argument.replace(f"{{{name}}}", value)
    return argument


def _watch(process: "subprocess.Popen[bytes]", start: float) -> FinishedProcess:
    """Waits for a process to end and records its memory."""
    status = Path(f"/proc/{process.pid}/status")
    peak, series = 0.0, [(0.0, 0.0)]
    end = os.pidfd_open(process.pid)
    try:
        while not select.select([end], [], [], _SAMPLE_SECONDS)[0]:
            now = perf_counter() - start
            if now > _PATIENCE:
                raise CompetitorError(f"still running after {_PATIENCE:g} s")
            # VmHWM is the peak of this program; the peak of getrusage includes the parent before exec.
            memory = {name: int(kilobytes) * 1.024e-3 for name, kilobytes in _MEMORY.findall(read_system_file(status))}
            if memory:
                peak = max(peak, memory["HWM"])
                if now - series[-1][0] >= _SERIES_SECONDS:
                    series.append((round(now, 3), round(memory["RSS"], 1)))
        return FinishedProcess(seconds=perf_counter() - start, megabytes=peak, series=series[1:])
    finally:
        os.close(end)
