"""What a job of inference notes of itself, so that it can go on where it was stopped."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from mbv2kit.errors import UserError
from mbv2kit.inference.records import Record

# Notes of a job: whatever decides its results, by the name that messages give it.
Job = dict[str, Any]

JOB = ".mbv2kit-infer.json"
# Keys that decide no result.
_WITHOUT_EFFECT = frozenset({"output", "resume", "threads", "batch_size", "plugins"})
_IMAGES, _MODEL_FILE = "images", "model file"


def describe_job(keys: Mapping[str, Any], *, model: str, file: Path, runtime: str, images: Sequence[Path]) -> Job:
    """Returns what decides the results of a job: its keys, its model and its images.

    Args:
        keys: The keys of ``conf/infer.yaml`` by their dotted names; groups of keys are left out.
        model: Name of the model.
        file: What it is read from.
        runtime: What runs it.
        images: The images, in order.
    """
    deciding = {
        key: value
        for key, value in keys.items()
        if not isinstance(value, Mapping) and key.partition(".")[0] not in _WITHOUT_EFFECT
    }
    digest = sha256("\0".join(map(str, images)).encode("utf-8", "surrogateescape")).hexdigest()
    return {**deciding, "checkpoint": model, "runtime": runtime, _MODEL_FILE: _stamp(file), _IMAGES: digest}


def check_same(output: Path, before: Job, now: Job) -> None:
    """Checks that a job may go on with what another one began.

    Args:
        output: The folder of the results.
        before: The notes of the job that began.
        now: Those of this one.

    Raises:
        UserError: Its results would be others.
    """
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        what = (
            f"for other {name}, or in another order"
            if name == _IMAGES
            else f"with another {name}"
            if name == _MODEL_FILE
            else f"with {name}={old}, and it is {new} now"
        )
        raise UserError(
            f"output={output} was begun {what}; repeat the first call with resume=true, or leave it out to begin anew."
        )


def read_job(folder: Path) -> Job | None:
    """Returns the notes of the job that wrote a folder; None if it wrote no line yet."""
    try:
        content = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def count_finished(lines: Path, tell: Callable[[Record], object]) -> int:
    """Counts the images that have a whole line, and cuts off what follows the last of them.

    Args:
        lines: A file that holds a line for each image in order, and whose writer may have been killed.
        tell: Called with each record.
    """
    if not lines.exists():
        return 0
    count = end = 0
    with lines.open("r+b") as file:
        for line in file:
            record = _parse(line)
            if record is None:
                break
            tell(record)
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _stamp(file: Path) -> list[int] | None:
    """Returns size and time of change of a file; None if there is none, as for a name of published weights."""
    try:
        status = file.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
