"""Trains in processes that are killed without warning, resumes, and compares with a run that was not.

python -m tests.training.kills detection at_files          kills before every access to a file of the run
python -m tests.training.kills detection at_files 72       the same from the 72nd access on
python -m tests.training.kills detection at_moments 30     kills at thirty random moments
TMPDIR=/dev/shm python -m tests.training.kills detection at_moments 10 /var/tmp
                                                           the same ten times, in a folder of another file system
"""

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TASKS = ("classification", "detection", "segmentation")
# A run of a few seconds that validates twice and exports.
TINY = (
    "dataset=shapes",
    "dataset.size=64",
    "dataset.train_count=12",
    "dataset.val_count=4",
    "input.size=[64,64]",
    "backbone.width=0.35",
    "loader.batch_size=4",
    "loader.workers=0",
    "trainer.max_epochs=2",
    "trainer.progress_bar=false",
)
_WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_TIMES = ("seconds", "images_per_second", "waiting", "time")


def train(overrides: Sequence[str], run: str, kill_at: int | None, log: str) -> None:
    """Trains in this process, which is killed at an access to a file of the run; writes their number to ``log``.

    Args:
        overrides: The keys of the run, or ``resume=RUN``.
        run: The run folder.
        kill_at: Number of the access before which the process is killed, counted from 1; None for no kill.
        log: File for what the run reports, and for the number of accesses in its last line.
    """
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from mbv2kit.api import train as train_model

    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _WRITES or not _is_write(event, arguments) or not _below(run, arguments):
            return
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    keys = dict(line.split("=", 1) for line in overrides)
    train_model(**{key: _value(value) for key, value in keys.items()})
    print(f"\n{count}", flush=True)


def _is_write(event: str, arguments: tuple[Any, ...]) -> bool:
    return event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _below(run: str, arguments: tuple[Any, ...]) -> bool:
    paths = [os.fsdecode(each) for each in arguments[:2] if isinstance(each, str | bytes | os.PathLike)]
    return any(os.path.abspath(path).startswith(run) for path in paths)


def _value(text: str) -> Any:
    with suppress(ValueError):
        return json.loads(text)
    return text


class Killer:
    """Runs trainings in fresh processes, forked from one that has imported everything but computed nothing.

    Args:
        task: Task to train.
        folder: An empty folder for the runs.
        overrides: Further keys.
    """

    def __init__(self, task: str, folder: Path, overrides: Sequence[str] = ()) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["mbv2kit.training.run", "mbv2kit.exporting.onnx", "mbv2kit.api"])
        self._keys = [f"task={task}", *TINY, *overrides]
        self._folder = folder
        self._whole = folder / "whole" / "run"
        # The first process waits until everything is imported.
        self._run(folder / "first" / "run", None, None)
        started = time.perf_counter()
        self._run(self._whole, None, None)
        self.seconds = time.perf_counter() - started
        self.accesses = int(self._log(self._whole).read_text().split()[-1])

    def kill_at_access(self, number: int) -> str | None:
        """Kills a run before one of its accesses to a file, resumes it, and returns what differs, else None."""
        run = self._folder / f"access_{number}" / "run"
        code = self._run(run, number, None)
        assert code == -signal.SIGKILL, f"the run ended with {code}"
        return self._resume_and_compare(run)

    def kill_after(self, seconds: float) -> str | None:
        """Kills a run at a moment, resumes it, and returns what differs, else None."""
        run = self._folder / f"moment_{seconds:.3f}" / "run"
        self._run(run, None, seconds)
        return self._resume_and_compare(run)

    def _resume_and_compare(self, run: Path) -> str | None:
        # A run that was killed before it had a configuration starts again, with the same command.
        resumes = (run / "config.yaml").is_file()
        code = self._run(run, None, None, resumes=resumes)
        if code:
            return f"{'resume' if resumes else 'restart'} ended with {code}: {self._log(run).read_text()[-400:]}"
        found = difference(self._whole, run)
        if found is None:
            shutil.rmtree(run.parent)
        return found

    def _run(self, run: Path, kill_at: int | None, kill_after: float | None, *, resumes: bool = False) -> int:
        run.parent.mkdir(exist_ok=True)
        keys = [f"resume={run}"] if resumes else [*self._keys, f"run_dir={run}"]
        process = self._context.Process(target=train, args=(keys, str(run), kill_at, str(self._log(run))))
        process.start()
        process.join(kill_after)
        process.kill() if kill_after is not None else process.join()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    def _log(self, run: Path) -> Path:
        return run.with_suffix(".log")


def difference(left: Path, right: Path) -> str | None:
    """Returns what two runs differ in, except in times: weights, metrics, epochs, or the files that there are."""
    files = [{_name(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in (left, right)]
    if files[0] != files[1]:
        return f"files: {sorted(files[0] ^ files[1])}"
    for name in sorted(each for each in files[0] if each.startswith("model/")):
        if (left / name).read_bytes() != (right / name).read_bytes():
            return name
    rows = [list(csv.DictReader((run / "metrics.csv").read_text().splitlines())) for run in (left, right)]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (left, right)]
    for name, (ours, theirs) in {"metrics.csv": rows, "metrics.json": [[each] for each in metrics]}.items():
        if [_without_times(row) for row in ours] != [_without_times(row) for row in theirs]:
            return f"{name}: {ours} and {theirs}"
    return None


def _name(path: Path) -> str:
    # TensorBoard writes a file for each process.
    return "tensorboard" if path.parts[0] == "tensorboard" or "tfevents" in path.name else path.as_posix()


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _TIMES}


def main(task: str, kind: str, number: str = "0", where: str | None = None) -> int:
    """Prints a line for each kill and the number of those that went well; returns the number of the others."""
    wrong, count = 0, int(number)
    with tempfile.TemporaryDirectory(prefix="kills_", dir=where) as folder:
        killer = Killer(task, Path(folder))
        print(f"{task}: {killer.accesses} accesses to files in {killer.seconds:.1f} s", flush=True)
        chance = random.Random(0)
        moments = [chance.uniform(0, killer.seconds) for _ in range(count)]
        numbers = range(max(1, count), killer.accesses + 1)
        for point in numbers if kind == "at_files" else moments:
            found = killer.kill_at_access(int(point)) if kind == "at_files" else killer.kill_after(point)
            wrong += found is not None
            print(f"{point:.3f}: {found or 'equal'}", flush=True)
        total = len(numbers) if kind == "at_files" else count
    print(f"{task} {kind}: {total - wrong} of {total}")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(*sys.argv[1:])))
