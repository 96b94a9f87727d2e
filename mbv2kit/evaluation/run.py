"""Evaluates a model on a split: metrics, a table, plots, and images with the predictions next to the ground truth."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import Image as PillowImage
from rich.markup import escape
from rich.progress import track

from mbv2kit.cli.console import open_console
from mbv2kit.cli.logs import job_log
from mbv2kit.data.datamodule import evaluation_loader
from mbv2kit.data.joined import FIELDS, Joined, has_ground_truth, open_joined
from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.data.sources import Source
from mbv2kit.data.workers import worker_deaths_told
from mbv2kit.errors import UserError, first_few
from mbv2kit.evaluation import (
    EVALUATORS,
    Scores,
    combine,
    create_evaluator,
    model_in_brief,
    print_scores,
    write_metrics,
)
from mbv2kit.evaluation.dataset import datasets_of, describe_dataset, listed
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.writing import claim_folder, write_atomically
from mbv2kit.imaging import draw
from mbv2kit.inference.loading import Request, load, tta_keys
from mbv2kit.inference.output_names import short_stem
from mbv2kit.inference.predictor import Predictor
from mbv2kit.memory import limited_memory
from mbv2kit.models.exports import Export
from mbv2kit.models.run_folder import RunFolder, chosen_checkpoint
from mbv2kit.models.spec import ModelSpec
from mbv2kit.process import keep_freed_memory
from mbv2kit.structures import MULTITASK, TASKS, Image, Prediction, Sample, Task

_log = logging.getLogger(__name__)

IMAGES = 16
_OUTPUTS = Path("outputs/eval")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        folder: The folder of results.
        scores: The metrics.
        predictor: What was evaluated.
    """

    folder: RunFolder
    scores: Scores
    predictor: Predictor


@job_log()
@worker_deaths_told()
def evaluate(config: DictConfig) -> Evaluation:
    """Evaluates what ``checkpoint`` names on a split of ``dataset``, and writes a folder of results.

    Raises:
        UserError: There is no such model or data set, or the two do not fit together.
    """
    options: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    keep_freed_memory()
    with limited_memory() if options["device"] == "cpu" else nullcontext():
        return _evaluate(options)


def _evaluate(options: Mapping[str, Any]) -> Evaluation:
    checkpoint = chosen_checkpoint(options["checkpoint"], options["weights"])
    keys = ("task", "class_names", "runtime", "precision", "output_stride", "device")
    # torch runs the model as training does, so that the metrics are equal to the last digit.
    tta = tta_keys(options["tta"])
    loaded = load(Request(checkpoint=checkpoint, as_trained=True, **{key: options[key] for key in keys}, **tta))
    folder = loaded.folder
    _log.info("evaluating the model of %s", loaded.name)
    for note in loaded.notes:
        _log.info("%s", note)
    tasks = _tasks(loaded.predictor.spec, options["task"])
    datasets = datasets_of(options["dataset"], folder, tasks)
    images = open_joined(datasets, tasks, "val_split", options["split"])
    for head, dataset in datasets.items():
        split = options["split"] or dataset["val_split"]
        named = head if len(datasets) > 1 else ""
        _log.info("%s", describe_dataset(dataset, split, len(images.sources[head]), named))
    if options["evaluator"] is not None and len(datasets) > 1:
        measured = options["evaluator"]["name"]
        fitting = [head for head in datasets if tasks[head] == EVALUATORS.get_class(measured).task]
        raise UserError(
            f"evaluator '{measured}' measures one head, and this is an evaluation of {', '.join(datasets)}; add "
            f"{' or '.join(f'task={head}' for head in fitting)}, or leave it out."
        )
    name = listed(dataset["name"] for dataset in datasets.values())
    what = tasks[next(iter(datasets))] if len(datasets) == 1 else MULTITASK
    with disk_errors_told(options["run_dir"] or _OUTPUTS):
        results, scores = evaluate_model(
            loaded.predictor,
            images,
            dataset=name,
            split=options["split"] or listed(dataset["val_split"] for dataset in datasets.values()),
            claim=lambda: _claim(options["run_dir"], _OUTPUTS / what / name),
            evaluator=options["evaluator"],
            references=None if folder is None else RunFolder(folder.path.parent).references,
            tta=tta,
            export=loaded.export,
            **options["loader"],
        )
    return Evaluation(results, scores, loaded.predictor)


def evaluate_model(
    predictor: Predictor,
    images: Joined,
    *,
    dataset: str,
    split: str,
    claim: Callable[[], RunFolder],
    batch_size: int,
    workers: int,
    evaluator: Mapping[str, Any] | None = None,
    references: Mapping[str, float] | None = None,
    tta: Mapping[str, Any] | None = None,
    export: Export | None = None,
) -> tuple[RunFolder, Scores]:
    """Scores a model on every image, each of its heads where there is ground truth for it.

    Writes ``metrics.json``, ``plots/`` and ``predictions/`` into a folder and prints the tables of classes.

    Args:
        predictor: Runs the model.
        images: The images and their ground truth for the heads to score.
        dataset: Name of the data set, for ``metrics.json``.
        split: Name of the split, for ``metrics.json``.
        claim: Returns the folder for the results; it is called once the model and the data are known to fit.
        batch_size: Images at a time.
        workers: Processes that read.
        evaluator: Name and options of what computes the metrics of a single task; None for the usual one of each.
        references: Metric of each head that counts as 1 in the mean over the heads; see :func:`combine`.
        tta: Test-time augmentation as :func:`tta_keys` returns it, for ``metrics.json``; None for none.
        export: The exported file that the predictor runs, for ``metrics.json``; None where torch runs the model.

    Raises:
        UserError: The classes are not the model's, or the evaluator is unknown or for another task.
    """
    images = images.aligned(predictor.class_names, leave_out=True)
    tasks = images.tasks
    scorers = {head: create_evaluator(task, predictor.class_names[head], evaluator) for head, task in tasks.items()}
    loader = evaluation_loader(images, predictor.preprocess, batch_size, workers)
    wanted = set(evenly_spaced(len(images), IMAGES))
    folder = claim()
    folder.predictions.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    drawings: list[Image] = []
    index = 0
    for batch in track(loader, description=escape(f"{dataset} {split}"), transient=True, console=open_console()):
        inputs = batch.images.permute(0, 2, 3, 1).numpy()
        predicted = predictor.predict_inputs(inputs, batch.placements)
        for predictions, sample in zip(predicted, batch.samples, strict=True):
            for head, task in tasks.items():
                if not has_ground_truth(sample, head, task):
                    continue
                scorers[head].update(predictions[head], sample)
                if index in wanted:
                    drawings.append(_draw(sample, task, predictions[head], predictor.class_names[head]))
                    name = f"{index:05d}_{short_stem(Path(sample.image_id))}"
                    _save(drawings[-1], folder.predictions / f"{name if len(tasks) == 1 else f'{name}_{head}'}.png")
            index += 1
    seconds = time.perf_counter() - started
    # A row for each image of several heads.
    _save(draw.contact_sheet(drawings, columns=max(2, len(tasks))), folder.predictions / "overview.png")
    results = {head: _with_left_out(scorer.compute(), images.sources[head]) for head, scorer in scorers.items()}
    for head, scorer in scorers.items():
        # Two heads of one task have plots of the same names.
        scorer.save_plots(folder.plots if len(tasks) == 1 or head in TASKS else folder.plots / head)
    precision, file = ("fp32", None) if export is None else (export.precision, export.file)
    views = _describe_tta(tta or {"tta": "none"})
    open_console().print(f"{dataset} {split}: {predictor.runtime}, {precision}{views}", markup=False)
    for head, each in results.items():
        if len(tasks) > 1:
            open_console().print(head, markup=False)
        print_scores(each)
    (first, task), *others = tasks.items()
    scores = combine(results, references) if others else results[first]
    write_metrics(
        folder.metrics,
        task=MULTITASK if others else task,
        dataset=dataset,
        split=split,
        images=len(images),
        seconds=seconds,
        scores=scores,
        **(tta or {"tta": "none"}),
        runtime=predictor.runtime,
        precision=precision,
        file=file,
        model=model_in_brief(predictor.spec.to_dict(), *tasks),
        **({} if others or first in TASKS else {"head": first}),
    )
    _log.info(
        "%d images in %.1f s%s; figures, plots and images are in %s",
        len(images),
        seconds,
        views,
        folder.path,
    )
    return folder, scores


def _draw(sample: Sample, task: Task, prediction: Prediction, class_names: Sequence[str]) -> Image:
    """Draws a prediction next to the ground truth of its task alone."""
    others: dict[str, Any] = {name: None for other, names in FIELDS.items() if other != task for name in names}
    return draw.next_to_ground_truth(replace(sample, **others), prediction, class_names)


def _with_left_out(scores: Scores, source: Source) -> Scores:
    """Returns the scores with a note on the classes of the data set that the model does not know."""
    if not source.left_out:
        return scores
    sentence = f"The model does not know {len(source.left_out)} classes of the data set ({first_few(source.left_out)})"
    return replace(scores, notes=(f"{sentence}; their objects are left out.", *scores.notes))


def _claim(named: str | None, parent: Path) -> RunFolder:
    """Returns the folder of results: a new one, or the named one without the results of an earlier evaluation.

    Raises:
        UserError: The named folder holds something else, such as a training run.
        OSError: The folder cannot be made.
    """
    if named is None:
        return RunFolder(claim_folder(parent / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    folder = RunFolder(Path(named))
    folder.path.mkdir(parents=True, exist_ok=True)
    ours = {folder.metrics, folder.plots, folder.predictions}
    others = sorted(path.name for path in folder.path.iterdir() if path not in ours)
    if others:
        raise UserError(
            f"run_dir={named} holds {others[0]}, which evaluation does not write; name a new or empty folder."
        )
    earlier = [path for path in (folder.plots, folder.predictions) if path.is_dir() and any(path.iterdir())]
    if earlier and not folder.metrics.is_file():
        raise UserError(
            f"run_dir={named} holds {earlier[0].name} without the metrics.json of an evaluation; name a new or empty "
            "folder."
        )
    for path in (folder.metrics, *folder.plots.rglob("*.png"), *folder.predictions.glob("*.png")):
        path.unlink(missing_ok=True)
    return folder


def _describe_tta(tta: Mapping[str, Any]) -> str:
    if tta["tta"] == "none":
        return ""
    scales = "" if tta["tta_scales"] is None else f" at {', '.join(map(str, tta['tta_scales']))}"
    return f" with tta={tta['tta']}{scales}{'' if tta['tta_flip'] else ', not mirrored'}"


def _save(image: Image, path: Path) -> None:
    content = BytesIO()
    PillowImage.fromarray(image).save(content, format="png")
    write_atomically(path, content.getvalue())


def _tasks(spec: ModelSpec, head: str | None) -> dict[str, Task]:
    """Returns the heads to score, each with its task: the one that is named, or all of the model."""
    tasks = dict(spec.tasks)
    if head is None:
        return tasks
    if head not in tasks:
        raise UserError(f"The model was trained for {', '.join(tasks)}, not {head}.")
    return {head: tasks[head]}
