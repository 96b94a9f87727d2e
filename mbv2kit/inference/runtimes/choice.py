"""``runtime=auto``: which of the installed runtimes is the fastest for a model on this machine, timed once."""

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeGuard

import numpy as np

from mbv2kit.errors import UserError
from mbv2kit.files.caches import cache_folder
from mbv2kit.files.writing import write_atomically
from mbv2kit.inference.runtimes.base import RUNTIMES, RuntimeName, open_session
from mbv2kit.models.exports import Export
from mbv2kit.models.session import Session
from mbv2kit.process import processor_name
from mbv2kit.schema.documents import read_json

# Timing of all candidates together; enough for a few dozen runs of each.
SECONDS = 2.0
_WARM_UPS = 3
_LEAST_RUNS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file and a runtime that can read it.

    Attributes:
        runtime: The runtime.
        export: The file.
        threads: Number of threads for one image.
        at_a_time: Number of images that are processed at a time, each by its own session.
    """

    runtime: RuntimeName
    export: Export
    threads: int
    at_a_time: int

    @property
    def name(self) -> str:
        """Name of the candidate for people."""
        return f"{self.runtime} on {self.export.file}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest candidate, and the reason for the choice in one line."""

    candidate: Candidate
    reason: str


def candidates(
    exports: Sequence[Export], runtime: RuntimeName | None = None, *, cores: int = 1, workers: int = 1
) -> list[Candidate]:
    """Lists the candidates: each installed runtime, or the given one, with the file of its preferred format.

    Args:
        exports: The files.
        runtime: The only runtime to consider; None considers all that are installed.
        cores: Number of cores to use.
        workers: Number of images to process at a time.
    """
    found = []
    for name, each in RUNTIMES.items():
        if runtime == name or (runtime is None and each.version is not None):
            readable = [export for kind in each.reads for export in exports if export.format == kind]
            at_a_time = workers if each.parallel else 1
            threads = max(1, cores // at_a_time)
            found += [Candidate(name, export, threads, at_a_time) for export in readable[:1]]
    return found


def choose(
    folder: Path,
    found: Sequence[Candidate],
    *,
    cache: Path | None = None,
    opener: Callable[[RuntimeName, Path, Export, int], Session] = open_session,
    clock: Callable[[], float] = perf_counter,
) -> Choice:
    """Chooses the fastest candidate; they are timed for two seconds unless times are in the cache.

    Times are cached by the hashes of the files, the processor, the numbers of threads and the versions of the runtimes.

    Args:
        folder: Model folder.
        found: At least one candidate.
        cache: File of the cache; None takes ``runtimes.json`` in :func:`mbv2kit.files.caches.cache_folder`.
        opener: Opens a candidate.
        clock: Returns seconds since any moment.

    Raises:
        UserError: No candidate runs.
    """
    if len(found) == 1:
        return Choice(found[0], "the only runtime installed that reads one of the model's files")
    cache = cache or cache_folder() / "runtimes.json"
    key = _key(found)
    known = _read(cache)
    times = known.get(key)
    names = {candidate.name: candidate for candidate in found}
    fresh = not _are_times(times) or not names.keys() >= times.keys()
    if fresh:
        times = _time(folder, found, opener, clock)
        _write(cache, {**known, key: times})
    assert isinstance(times, dict)
    ranked = sorted(times, key=lambda name: times[name])
    others = ", ".join(f"{name} {times[name]:.2f}" for name in ranked[1:])
    when = "timed now" if fresh else "as timed before"
    reason = f"{times[ranked[0]]:.2f} ms an image here{f', {others}' if others else ''}; {when}"
    return Choice(names[ranked[0]], reason)


def _time(
    folder: Path,
    found: Sequence[Candidate],
    opener: Callable[[RuntimeName, Path, Export, int], Session],
    clock: Callable[[], float],
) -> dict[str, float]:
    """Returns the milliseconds per image of each candidate that runs: the median, divided by its images at a time."""
    sessions: dict[str, Session] = {}
    image = np.random.default_rng(0).integers(0, 256, (1, *found[0].export.size, 3), dtype=np.uint8)
    failures = []
    for candidate in found:
        try:
            session = opener(candidate.runtime, folder, candidate.export, candidate.threads)
            for _ in range(_WARM_UPS):
                session(image)
        except UserError as error:
            failures.append(str(error))
        else:
            sessions[candidate.name] = session
    if not sessions:
        raise UserError(f"No runtime can run the model in {folder}: {' '.join(failures)}")
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end = clock() + SECONDS
    while clock() < end or len(next(iter(times.values()))) < _LEAST_RUNS:
        # In turn, so that other load on the machine slows all of them.
        for name, session in sessions.items():
            start = clock()
            session(image)
            times[name].append(1000 * (clock() - start))
    return {each.name: round(median(times[each.name]) / each.at_a_time, 4) for each in found if each.name in times}


def _key(found: Sequence[Candidate]) -> str:
    facts: list[Any] = [platform.machine(), processor_name()]
    facts += sorted(
        (each.runtime, RUNTIMES[each.runtime].version, each.export.sha256, each.threads, each.at_a_time)
        for each in found
    )
    return sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _are_times(values: Any) -> TypeGuard[dict[str, float]]:
    """Returns whether a value from the cache holds milliseconds by name, at least one."""
    return bool(values) and isinstance(values, dict) and all(isinstance(each, float) for each in values.values())


def _read(cache: Path) -> dict[str, Any]:
    try:
        return read_json(cache, "hold times of runtimes")
    except UserError:
        return {}


def _write(cache: Path, values: dict[str, Any]) -> None:
    # Without a cache, the next run only times again.
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, json.dumps(values, indent=1))
