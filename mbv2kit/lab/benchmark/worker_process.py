"""A process that sets up one competitor and times its calls on request.

It reads a setup request and then timing requests from stdin, and replies to each, all as lines of JSON:

    {"setup": "torchvision:mobilenet_v2", "options": {...}, "needs": ["torchvision"]}
        -> {"measures": [...], "facts": {...}}, {"skipped": REASON} or {"failed": REASON}
    {"measure": NAME, "seconds": 0.5} -> {"seconds": [of each call]} or {"failed": REASON}

It may run in another interpreter than mbv2kit's, so it imports only modules that need nothing but the standard library.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from time import perf_counter
from typing import Any, TextIO

from mbv2kit.errors import one_line
from mbv2kit.lab.benchmark.workload import Workload

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def time_calls(call: Callable[[], object], seconds: float, clock: Callable[[], float] = perf_counter) -> list[float]:
    """Calls once to warm up caches and threads, then repeatedly for some seconds; returns the time of each call."""
    call()
    times: list[float] = []
    end = clock() + seconds
    while not times or clock() < end:
        start = clock()
        call()
        times.append(clock() - start)
    return times


def main() -> None:
    """Serves the parent process until it closes the pipe."""
    _end_with_parent()
    replies = _take_stdout()
    request = json.loads(sys.stdin.readline())
    if missing := [name for name in request["needs"] if find_spec(name) is None]:
        _say(replies, {"skipped": f"{', '.join(missing)} not installed in {sys.executable}"})
        return
    try:
        module, _, function = request["setup"].partition(":")
        ready: Workload = getattr(import_module(module), function)(**request["options"])
    except Exception as error:
        _say(replies, {"failed": _reason(error)})
        return
    versions = {name: _version(name) for name in request["needs"]}
    _say(replies, {"measures": list(ready.calls), "facts": {**ready.facts, "versions": versions}})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            reply: dict[str, Any] = {"seconds": time_calls(ready.calls[order["measure"]], order["seconds"])}
        except Exception as error:
            reply = {"failed": _reason(error)}
        _say(replies, reply)


def _end_with_parent() -> None:
    # A suspended process cannot notice that its parent closed the pipe.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _take_stdout() -> TextIO:
    """Reserves stdout for replies: what libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _say(replies: TextIO, reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    return f"{kind}: {one_line(error)}" if str(error).strip() else kind


def _version(package: str) -> str | None:
    try:
        return version(next(iter(packages_distributions().get(package, [package]))))
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
