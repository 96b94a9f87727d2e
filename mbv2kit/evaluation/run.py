"""Evaluates a model on a split: metrics, a table, plots, and images with the predictions next to the ground truth."""

import logging
import time
from collections.abc import Callable, Mapping
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
from mbv2kit.data.align import align_classes
from mbv2kit.data.datamodule import evaluation_loader
from mbv2kit.data.sampling import evenly_spaced
from mbv2kit.data.sources import Source, open_source
from mbv2kit.data.workers import worker_deaths_told
from mbv2kit.errors import UserError, first_few
from mbv2kit.evaluation import Scores, create_evaluator, model_in_brief, print_scores, write_metrics
from mbv2kit.evaluation.dataset import dataset_of, describe_dataset, needed
from mbv2kit.files.disk_errors import disk_errors_told
from mbv2kit.files.writing import claim_folder, write_atomically
from mbv2kit.imaging import draw
from mbv2kit.inference.loading import Request, load, tta_keys
from mbv2kit.inference.output_names import short_stem
from mbv2kit.inference.predictor import Predictor
from mbv2kit.models.exports import Export
from mbv2kit.models.run_folder import RunFolder, chosen_checkpoint
from mbv2kit.models.spec import ModelSpec
from mbv2kit.process import keep_freed_memory
from mbv2kit.structures import Image, Task

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
    checkpoint = chosen_checkpoint(options["checkpoint"], options["weights"])
    keys = ("task", "class_names", "runtime", "precision", "output_stride")
    # torch runs the model as training does, so that the metrics are equal to the last digit.
    tta = tta_keys(options["tta"])
    loaded = load(Request(checkpoint=checkpoint, as_trained=True, **{key: options[key] for key in keys}, **tta))
    folder = loaded.folder
    _log.info("evaluating the model of %s", loaded.name)
    for note in loaded.notes:
        _log.info("%s", note)
    task = _only_task(loaded.predictor.spec, options["task"])
    dataset = needed(dataset_of(options["dataset"], folder))
    split = options["split"] or dataset["val_split"]
    source = open_source(dataset, task, split)
    _log.info("%s", describe_dataset(dataset, split, len(source)))
    with disk_errors_told(options["run_dir"] or _OUTPUTS):
        results, scores = evaluate_model(
            loaded.predictor,
            source,
            task=task,
            dataset=dataset["name"],
            split=split,
            claim=lambda: _claim(options["run_dir"], _OUTPUTS / task / dataset["name"]),
            evaluator=options["evaluator"],
            tta=tta,
            export=loaded.export,
            **options["loader"],
        )
    return Evaluation(results, scores, loaded.predictor)


def evaluate_model(
    predictor: Predictor,
    source: Source,
    *,
    task: Task,
    dataset: str,
    split: str,
    claim: Callable[[], RunFolder],
    batch_size: int,
    workers: int,
    evaluator: Mapping[str, Any] | None = None,
    tta: Mapping[str, Any] | None = None,
    export: Export | None = None,
) -> tuple[RunFolder, Scores]:
    """Scores one task of a model on every image of a source.

    Writes ``metrics.json``, ``plots/`` and ``predictions/`` into a folder and prints the table of classes.

    Args:
        predictor: Runs the model.
        source: A source opened for ``task``, with the model's classes.
        task: Which of the model's heads to score.
        dataset: Name of the data set, for ``metrics.json``.
        split: Name of the split, for ``metrics.json``.
        claim: Returns the folder for the results; it is called once the model and the data are known to fit.
        batch_size: Images at a time.
        workers: Processes that read.
        evaluator: Name and options of what computes the metrics; None for the usual one of the task.
        tta: Test-time augmentation as :func:`tta_keys` returns it, for ``metrics.json``; None for none.
        export: The exported file that the predictor runs, for ``metrics.json``; None where torch runs the model.

    Raises:
        UserError: The source's classes are not the model's, or the evaluator is unknown or for another task.
    """
    source = align_classes(source, predictor.class_names[task], leave_out=task == "detection")
    scorer = create_evaluator(task, predictor.class_names[task], evaluator)
    loader = evaluation_loader(source, predictor.preprocess, batch_size, workers)
    wanted = set(evenly_spaced(len(source), IMAGES))
    folder = claim()
    folder.predictions.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    images: list[Image] = []
    index = 0
    for batch in track(loader, description=escape(f"{dataset} {split}"), transient=True, console=open_console()):
        inputs = batch.images.permute(0, 2, 3, 1).numpy()
        predicted = predictor.predict_inputs(inputs, batch.placements)
        for predictions, sample in zip(predicted, batch.samples, strict=True):
            scorer.update(predictions[task], sample)
            if index in wanted:
                images.append(draw.next_to_ground_truth(sample, predictions[task], predictor.class_names[task]))
                _save(images[-1], folder.predictions / f"{index:05d}_{short_stem(Path(sample.image_id))}.png")
            index += 1
    seconds = time.perf_counter() - started
    _save(draw.contact_sheet(images, columns=2), folder.predictions / "overview.png")
    scores = scorer.compute()
    if source.left_out:
        sentence = (
            f"The model does not know {len(source.left_out)} classes of the data set ({first_few(source.left_out)})"
        )
        scores = replace(scores, notes=(f"{sentence}; their objects are left out.", *scores.notes))
    scorer.save_plots(folder.plots)
    precision, file = ("fp32", None) if export is None else (export.precision, export.file)
    views = _describe_tta(tta or {"tta": "none"})
    open_console().print(f"{dataset} {split}: {predictor.runtime}, {precision}{views}", markup=False)
    print_scores(scores)
    write_metrics(
        folder.metrics,
        task=task,
        dataset=dataset,
        split=split,
        images=scorer.images,
        seconds=seconds,
        scores=scores,
        **(tta or {"tta": "none"}),
        runtime=predictor.runtime,
        precision=precision,
        file=file,
        model=model_in_brief(predictor.spec.to_dict(), task),
    )
    _log.info(
        "%d images in %.1f s%s; figures, plots and images are in %s",
        scorer.images,
        seconds,
        views,
        folder.path,
    )
    return folder, scores


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
    for path in (folder.metrics, *folder.plots.glob("*.png"), *folder.predictions.glob("*.png")):
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


def _only_task(spec: ModelSpec, task: Task | None) -> Task:
    tasks = list(spec.class_names)
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task not in tasks:
        wanted = f"not {task}" if task else "so name one with task="
        raise UserError(f"The model was trained for {', '.join(tasks)}, {wanted}.")
    return task
