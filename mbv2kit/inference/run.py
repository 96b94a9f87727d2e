"""The job of inference: a line in ``predictions.jsonl``, a drawing and a mask for every image."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from time import perf_counter

from omegaconf import DictConfig

from mbv2kit.errors import UserError
from mbv2kit.inference.image_paths import expand, output_names
from mbv2kit.inference.loading import Request, load
from mbv2kit.inference.pipeline import count_workers, process
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.results import Record, Result
from mbv2kit.inference.stages import Stages
from mbv2kit.inference.writer import Writer
from mbv2kit.models.run_folder import OUTPUTS, chosen_checkpoint
from mbv2kit.process import keep_freed_memory
from mbv2kit.structures import Task


def infer(config: DictConfig, paths: Sequence[str]) -> int:
    """Predicts for images and writes the results into one folder, each as soon as it is ready.

    Args:
        config: As composed from ``conf/infer.yaml``.
        paths: Image files, folders and globs.

    Returns:
        The exit code: 0, or 1 if an image could not be read.

    Raises:
        UserError: There is no image or no model, a key is out of range, or the output cannot be written.
    """
    started = perf_counter()
    if not paths:
        raise UserError("No image is named; give files, folders or patterns: mbv2kit infer photos/ cat.jpg")
    for key in ("min_score", "draw_min_score"):
        if config[key] is None or not 0 <= config[key] <= 1:
            raise UserError(f"{key} must be in 0..1, got {config[key]}.")
    images = expand(paths)
    request = _request(config)
    # A budget of memory covers all images that are processed at a time.
    workers = 1 if request.memory_budget is not None else count_workers(request.cores, len(images))
    loaded = load(replace(request, workers=workers))
    origin = "" if request.checkpoint else " (of the newest finished run)"
    print(f"Model: {loaded.name}{origin}", *loaded.notes, sep="\n")
    keep_freed_memory()
    batch_size = loaded.predictor.batch_size(config.batch_size)
    predictors = [loaded.predictor, *(loaded.predictor.copy() for _ in range(workers - 1))]
    stages = Stages()
    predict = [partial(each.predict, min_score=config.min_score, stages=stages) for each in predictors]
    names = output_names(images)
    writer = Writer(
        output=Path(config.output or OUTPUTS / "infer" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"),
        tasks=_tasks(loaded.predictor, config.task, loaded.name),
        draw_min_score=config.draw_min_score,
        draws=config.save_images,
    )

    def write(index: int, result: Result) -> list[Record]:
        with stages.timing("writing"):
            return writer.write(names[index], result)

    ready = perf_counter()
    unreadable = _write_all(process(predict, images, batch_size, write), len(images), writer.output)
    if loaded.split is not None and loaded.split.measured is not None:
        planned, measured = loaded.split.plan.peak, loaded.split.measured
        print(f"Memory of activations: planned {planned:,} bytes, measured {measured:,}")
    print(stages.describe(len(images), workers, perf_counter() - ready))
    count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
    failed = f", {unreadable} of them unreadable (see the errors in predictions.jsonl)" if unreadable else ""
    print(f"{count}{failed}, {perf_counter() - started:.1f} s: {writer.output}")
    return 1 if unreadable else 0


def _request(config: DictConfig) -> Request:
    return Request(
        checkpoint=chosen_checkpoint(config.checkpoint, config.weights),
        task=config.task,
        runtime=config.runtime,
        precision=config.precision,
        threads=config.threads,
        compile=config.compile,
        output_stride=config.output_stride,
        tta=config.tta,
        memory_budget=config.memory_budget,
    )


def _tasks(predictor: Predictor, task: Task | None, name: str) -> list[Task]:
    if task is None:
        return list(predictor.class_names)
    if task not in predictor.class_names:
        raise UserError(f"The model {name} does {' and '.join(predictor.class_names)}, not {task}; leave out task=.")
    return [task]


def _write_all(results: Iterable[list[Record]], total: int, output: Path) -> int:
    """Writes the records of all images, each as soon as it is there; returns how many images could not be read."""
    unreadable = 0
    try:
        output.mkdir(parents=True, exist_ok=True)
        with (output / "predictions.jsonl").open("w", encoding="utf-8") as lines:
            for records in _watched(results, total):
                unreadable += "error" in records[0]
                lines.writelines(json.dumps(record) + "\n" for record in records)
                lines.flush()
    except OSError as error:
        raise UserError(
            f"output={output} cannot be written ({error.strerror or error}); name another folder."
        ) from None
    return unreadable


def _watched(items: Iterable[list[Record]], total: int) -> Iterable[list[Record]]:
    if not sys.stderr.isatty():
        return items
    from mbv2kit.inference.progress import with_bar

    return with_bar(items, total)
