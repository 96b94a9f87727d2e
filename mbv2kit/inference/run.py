"""The job of inference: a line in ``predictions.jsonl``, a drawing and a mask for every image."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from omegaconf import DictConfig

from mbv2kit.cli.overrides import flatten
from mbv2kit.errors import UserError
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.inference.image_paths import Found, find_images
from mbv2kit.inference.loading import Request, load, tta_keys, with_second
from mbv2kit.inference.output_folder import claimed
from mbv2kit.inference.output_names import output_names
from mbv2kit.inference.pipeline import count_workers, process
from mbv2kit.inference.predictor import Predictor
from mbv2kit.inference.records import Record
from mbv2kit.inference.results import Result, check_score
from mbv2kit.inference.resuming import count_finished, describe_job
from mbv2kit.inference.stages import Stages
from mbv2kit.inference.writer import LINES, Writer
from mbv2kit.memory import limited_memory
from mbv2kit.models.run_folder import OUTPUTS, chosen_checkpoint
from mbv2kit.process import keep_freed_memory
from mbv2kit.structures import Task
from mbv2kit.texts import shown

# How many images without a prediction are named on the screen.
_NAMED = 5


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
        check_score(key, config[key])
    if config.resume and config.output is None:
        raise UserError("resume=true goes on in the folder of a stopped inference; name it with output=DIR.")
    found = find_images(paths)
    request = _request(config)
    # Drivers of other devices reserve far more than they take.
    with limited_memory() if request.device == "cpu" else nullcontext():
        return _infer(config, found, request, started)


def _infer(config: DictConfig, found: Found, request: Request, started: float) -> int:
    images = found.images
    # A budget of memory covers all images that are processed at a time.
    workers = 1 if request.memory_budget is not None else count_workers(request.cores, len(images))
    loaded = load(replace(request, workers=workers))
    tasks = _tasks(loaded.predictor, config.task, loaded.name)
    origin = "" if request.checkpoint else " (of the newest finished run)"
    _say(f"Model: {loaded.name}{origin}", *loaded.notes)
    predictor = _with_second(loaded.predictor, config, tasks, workers)
    _say(*found.notes())
    keep_freed_memory()
    batch_size = predictor.batch_size(config.batch_size)
    predictors = [predictor, *(predictor.copy() for _ in range(workers - 1))]
    stages = Stages()
    options = {"min_score": config.min_score, "stages": stages, "keep_pixels": config.save_images}
    predict = [partial(each.predict, **options) for each in predictors]
    names = output_names(images, found.folders)
    writer = Writer(tasks=tasks, draw_min_score=config.draw_min_score, draws=config.save_images)

    ready = perf_counter()
    where = OUTPUTS / "infer" if config.output is None else config.output
    told = _Told(config.draw_min_score)
    job = describe_job(flatten(config), model=loaded.name, file=loaded.file, runtime=predictor.runtime, images=images)
    with (
        disk_errors_told(where),
        claimed(config.output, images, writer.files(names), job, resume=config.resume) as output,
    ):
        before = count_finished(output / LINES, told.add)
        if before:
            _say(f"{before} of {len(images)} images have their lines already")

        def write(index: int, result: Result) -> Record:
            with stages.timing("writing"):
                return writer.write(output, names[before + index], result)

        results = process(predict, images[before:], batch_size, write)
        _write_all(_watched(results, len(images) - before), output / LINES, told)
    if loaded.split is not None and loaded.split.measured is not None:
        planned, measured = loaded.split.plan.peak, loaded.split.measured
        _say(f"Memory of activations: planned {planned:,} bytes, measured {measured:,}")
    if before < len(images):
        _say(stages.describe(len(images) - before, workers, perf_counter() - ready))
    count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
    failed = f", {told.failed} of them without prediction (see the errors in {LINES})" if told.failed else ""
    notes = f", {told.not_drawn} of them not drawn (see the notes in {LINES})" if told.not_drawn else ""
    if told.boxes is not None:
        written, drawn = told.boxes
        _say(f"{written} boxes, {drawn} of them with a score of at least draw_min_score={config.draw_min_score:g}")
    _say(f"{count}{failed}{notes}, {perf_counter() - started:.1f} s: {output}")
    for error in told.errors:
        print(f"error: {shown(error)}", file=sys.stderr)
    if told.failed > len(told.errors):
        print(f"error: {told.failed - len(told.errors)} more images have no prediction; see {LINES}", file=sys.stderr)
    return 1 if told.failed else 0


@dataclass(slots=True)
class _Told:
    """What is said about the images in the end.

    Attributes:
        failed: How many images have no prediction.
        errors: The reasons of the first few.
        not_drawn: How many have no drawing because it would be too large.
        draw_min_score: Boxes of a lower score are not drawn, 0..1.
        boxes: How many boxes are written and how many of them drawn; None for a model without a detector.
    """

    draw_min_score: float

    failed: int = 0
    errors: list[str] = field(default_factory=list)
    not_drawn: int = 0
    boxes: tuple[int, int] | None = None

    def add(self, record: Record) -> None:
        """Counts what the record of an image says."""
        error = record.get("error")
        self.failed += error is not None
        self.errors += [error] if error is not None and len(self.errors) < _NAMED else []
        self.not_drawn += "note" in record
        for keys in (record, *record.get("heads", {}).values()):
            if "boxes" in keys:
                drawn = sum(box["score"] >= self.draw_min_score for box in keys["boxes"])
                before = self.boxes or (0, 0)
                self.boxes = before[0] + len(keys["boxes"]), before[1] + drawn


def _say(*lines: str) -> None:
    for line in lines:
        print(shown(line))


def _request(config: DictConfig) -> Request:
    return Request(
        checkpoint=chosen_checkpoint(config.checkpoint, config.weights),
        task=config.task,
        class_names=config.class_names,
        runtime=config.runtime,
        precision=config.precision,
        threads=config.threads,
        compile=config.compile,
        output_stride=config.output_stride,
        **tta_keys(config.tta),
        memory_budget=config.memory_budget,
        device=config.device,
    )


def _tasks(predictor: Predictor, head: str | None, name: str) -> dict[str, Task]:
    """Returns the heads to write about, each with its task: the one that is named, or all."""
    tasks = dict(predictor.spec.tasks)
    if head is None:
        return tasks
    if head not in tasks:
        raise UserError(f"The model {name} does {' and '.join(tasks)}, not {head}; leave out task=.")
    return {head: tasks[head]}


def _with_second(predictor: Predictor, config: DictConfig, tasks: Mapping[str, Task], workers: int) -> Predictor:
    """Adds the model that ``then`` names, if it names one."""
    if config.then is not None and config.memory_budget is not None:
        raise UserError("memory_budget plans the memory of one model; leave out memory_budget= or then=.")
    predictor, lines = with_second(predictor, config.then, config.then_margin, threads=config.threads, workers=workers)
    if config.then is not None and "detection" not in tasks.values():
        raise UserError(f"then={config.then} classifies boxes, and task={config.task} writes none; leave out one.")
    _say(*lines)
    return predictor


def _write_all(results: Iterable[Record], file: Path, told: _Told) -> None:
    """Adds the records of images to a file, each as soon as it is there."""
    with file.open("a", encoding="utf-8") as lines:
        for record in results:
            told.add(record)
            lines.write(json.dumps(record, allow_nan=False) + "\n")
            lines.flush()


def _watched(items: Iterable[Record], total: int) -> Iterable[Record]:
    if not sys.stderr.isatty():
        return items
    from mbv2kit.inference.progress import with_bar

    return with_bar(items, total)
