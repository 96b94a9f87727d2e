"""Trains from a faulty server, is stopped and killed, resumes, and compares with a run from the folder.

python -m tests.data.shards.kills classification
python -m tests.data.shards.kills detection 5
"""

import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.data.shards.scenes import COUNTS, make
from tests.data.shards.servers import http_folder
from tests.training.kills import difference

EPOCHS, BATCH = 3, 4
STEPS = COUNTS["train"] // BATCH
# What the server does to one request after the other; None answers it well.
FAULTS = (None, "cut", None, "500", None, None, "corrupt", None, "short")


def train(keys: dict[str, Any], log: str, stop_at: int | None, number: int) -> None:
    """Trains in this process, which notes the images of each step, and gets a signal as one of its steps starts.

    Args:
        keys: The keys of the run, or ``resume``.
        log: File that gets a line of JSON for each step: epoch, step, images.
        stop_at: Number of the step, counted from 1 in this process; None for no signal.
        number: The signal.
    """
    output = os.open(f"{log}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from mbv2kit.api import train as train_model
    from mbv2kit.data.sources.shards import reader
    from mbv2kit.training.task import VisionTask

    # As in a process of the user. Workers of a server of their own would outlive this process when it is killed.
    multiprocessing.set_start_method("fork", force=True)
    reader.BLOCK_BYTES = 2**15
    original, steps = VisionTask.on_train_batch_start, itertools.count(1)

    def start(task: VisionTask, batch: Any, batch_idx: int) -> None:
        with Path(log).open("a") as file:
            file.write(json.dumps([task.current_epoch, batch_idx, batch.image_ids]) + "\n")
        if next(steps) == stop_at:
            os.kill(os.getpid(), number)
        original(task, batch, batch_idx)

    VisionTask.on_train_batch_start = start  # type: ignore[assignment, method-assign]
    train_model(**keys)


def run(keys: dict[str, Any], log: Path, stop_at: int | None = None, number: int = signal.SIGKILL) -> int:
    """Trains in a process of its own; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mbv2kit.training.run", "mbv2kit.api"])
    process = context.Process(target=train, args=(keys, str(log), stop_at, number))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def steps_that_count(log: Path) -> dict[tuple[int, int], list[str]]:
    """Returns the images of each step of each epoch; a step that a killed process took before is taken again."""
    found: dict[tuple[int, int], list[str]] = {}
    for line in log.read_text().splitlines():
        epoch, step, images = json.loads(line)
        assert found.setdefault((epoch, step), images) == images, "a step has other images than the first time"
    return found


def wrong(task: str, folder: Path, stops: Sequence[tuple[int, int]]) -> str | None:
    """Trains with some stops, and returns what differs from a run without any, or from what must be; else None.

    Args:
        task: The task.
        folder: An empty folder.
        stops: For each process the step at whose start it gets a signal, counted from 1, and the signal.
    """
    make(folder / "shards")
    keys: dict[str, Any] = {
        "task": task,
        "dataset": "shards",
        "dataset.shuffle_window": 12,
        "input.size": [64, 64],
        "backbone.width": 0.35,
        "loader.batch_size": BATCH,
        "trainer.max_epochs": EPOCHS,
        "trainer.progress_bar": False,
        "export": False,
    }
    whole, stopped = folder / "whole" / "run", folder / "stopped" / "run"
    for path in (whole, stopped):
        path.parent.mkdir()
    local = {"dataset.root": str(folder / "shards"), "loader.workers": 0, "run_dir": str(whole)}
    assert run(keys | local, folder / "whole.log") == 0
    with http_folder(folder / "shards", lambda count: FAULTS[count % len(FAULTS)]) as server:
        remote = {"dataset.root": server.url, "loader.workers": 2, "run_dir": str(stopped)}
        remote |= {"dataset.cache_dir": str(folder / "cache"), "dataset.cache_gb": 0.001}
        log = folder / "stopped.log"
        for stop_at, number in stops:
            begun = (stopped / "config.yaml").is_file()
            run({"resume": str(stopped)} if begun else keys | remote, log, stop_at, number)
            assert not (stopped / "metrics.json").exists(), "the run ended before it was stopped"
        assert run({"resume": str(stopped)}, log) == 0, log.with_suffix(".log.out").read_text()[-1000:]
    ours, theirs = steps_that_count(log), steps_that_count(folder / "whole.log")
    for epoch in range(EPOCHS):
        seen = [image for step in range(STEPS) for image in ours[epoch, step]]
        if len(seen) != COUNTS["train"] or len(set(seen)) != len(seen):
            return f"epoch {epoch} has {len(set(seen))} images in {len(seen)} places"
    if ours != theirs:
        return "other batches"
    return difference(whole, stopped)


def main(task: str, rounds: str = "1") -> int:
    """Prints a line for each round of three stops at random steps; returns the number of those that went wrong."""
    chance, failures = random.Random(0), 0
    for number in range(int(rounds)):
        stops = [(chance.randint(2, 9), chance.choice((signal.SIGTERM, signal.SIGKILL))) for _ in range(3)]
        with tempfile.TemporaryDirectory(prefix="shards_") as folder:
            found = wrong(task, Path(folder), stops)
        failures += found is not None
        told = ", ".join(f"{each.name} at step {step}" for step, each in stops)
        print(f"{task} {number + 1}: {told}: {found or 'equal'}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(min(1, main(*sys.argv[1:])))
