"""Starts and controls a worker process, which is suspended between its turns."""

import atexit
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from time import monotonic
from types import TracebackType
from typing import IO, Any

import mbv2kit
from mbv2kit.process import THREAD_SETTINGS

_PACKAGE = Path(mbv2kit.__file__).parent


class CompetitorError(Exception):
    """A competitor is skipped or failed; the message goes into its row of the table."""


class SkippedError(CompetitorError):
    """A competitor is skipped because something that it needs is missing."""


def environment(python: str) -> dict[str, str]:
    """Returns the environment variables of a competitor: those of this process without mbv2kit's own settings.

    Args:
        python: Interpreter of the competitor, which finds mbv2kit in these variables.
    """
    # run_tool sets these, which users of other libraries do not.
    kept = {name: value for name, value in os.environ.items() if name not in THREAD_SETTINGS}
    folder = str(_PACKAGE.parent) if python == sys.executable else _package_alone()
    paths = [folder, *filter(None, [kept.get("PYTHONPATH")])]
    # Otherwise ultralytics checks for a network connection at every start, and waits if there is none.
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}


@cache
def _package_alone() -> str:
    """Makes a temporary folder with only mbv2kit in it, so that other interpreters find no other package there."""
    folder = mkdtemp()
    atexit.register(shutil.rmtree, folder)
    Path(folder, _PACKAGE.name).symlink_to(_PACKAGE)
    return folder


class Worker:
    """A competitor in its own process.

    Args:
        python: Interpreter to run.
        setup: ``module:function`` that sets the competitor up.
        options: Arguments of the function.
        needs: Packages that the competitor needs.
        patience: Timeout in seconds for the setup and for each turn.

    Attributes:
        measures: Names of the calls that it can time.
        facts: Further information about the competitor.

    Raises:
        SkippedError: A package is missing.
        CompetitorError: The setup fails.
    """

    def __init__(
        self, python: str, setup: str, options: Mapping[str, Any], needs: Sequence[str] = (), patience: float = 900
    ) -> None:
        self._patience = patience
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115 - close() does
        self._process = subprocess.Popen(
            [python, "-m", "mbv2kit.lab.benchmark.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(python),
            bufsize=0,
        )
        try:
            outputs = self._ask({"setup": setup, "options": options, "needs": needs})
        except BaseException:
            self.close()
            raise
        self.measures: list[str] = outputs["measures"]
        self.facts: dict[str, Any] = outputs["facts"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def time(self, measure: str, seconds: float) -> list[float]:
        """Calls a measure repeatedly for some seconds and returns the time of each call.

        Raises:
            CompetitorError: A call fails, or the worker does not answer in time.
        """
        times: list[float] = self._ask({"measure": measure, "seconds": seconds})["seconds"]
        return times

    def stop(self) -> None:
        """Suspends the process, so that none of its threads spins during the turn of another."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resumes the process."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            pipe.close()

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            outputs: dict[str, Any] = json.loads(self._read_line())
        except (BrokenPipeError, EOFError):
            raise CompetitorError(self._last_words()) from None
        if "skipped" in outputs:
            raise SkippedError(outputs["skipped"])
        if "failed" in outputs:
            raise CompetitorError(outputs["failed"])
        return outputs

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        file, line, end = self._process.stdout.fileno(), b"", monotonic() + self._patience
        while not line.endswith(b"\n"):
            if not select.select([file], [], [], max(0.0, end - monotonic()))[0]:
                raise CompetitorError(f"no answer within {self._patience:g} s")
            part = os.read(file, 2**16)
            if not part:
                raise EOFError
            line += part
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        return f"ended with code {code}{last_line(self._errors)}"


def last_line(file: IO[bytes]) -> str:
    """Returns ``: `` and the last line of a file, or nothing if the file is empty."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[:300]}" if lines else ""
