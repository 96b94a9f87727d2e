"""Scores a model on a split: the figures, a table, diagrams, and pictures of what it sees beside the truth."""

import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image as PillowImage
from rich.progress import track

from mbv2kit import draw
from mbv2kit.data.align import align_classes
from mbv2kit.data.datamodule import evaluation_loader
from mbv2kit.data.sources import Source, open_source
from mbv2kit.errors import UserError
from mbv2kit.evaluation import Scores, create_evaluator, model_in_brief, print_scores, write_metrics
from mbv2kit.model import VisionModel
from mbv2kit.process import keep_freed_memory
from mbv2kit.runs import RunFolder, chosen_checkpoint
from mbv2kit.structures import Image, Task
from mbv2kit.training.setup import set_up_logging
from mbv2kit.tta import augmented, check_tta
from mbv2kit.weights.open import open_model

_log = logging.getLogger(__name__)

PICTURES = 16


def evaluate(config: DictConfig) -> None:
    """Evaluates what ``checkpoint`` names on a split of ``dataset``, and writes a folder of results.

    Raises:
        UserError: There is no such model or data set, or the two do not fit together.
    """
    options: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    set_up_logging()
    keep_freed_memory()
    check_tta(options["tta"])
    checkpoint = chosen_checkpoint(options["checkpoint"], options["weights"])
    model, folder = open_model(checkpoint, options["task"])
    if options["output_stride"] is not None:
        model = model.at_output_stride(options["output_stride"])
    _log.info("evaluating the model of %s", folder or checkpoint)
    task = _only_task(model, options["task"])
    dataset = options["dataset"] or (_trained_on(RunFolder(folder.parent)) if folder else None)
    if dataset is None:
        raise UserError(
            "The model does not say which data set it was trained on; name one: dataset=NAME dataset.root=DIR."
        )
    split = options["split"] or dataset["val_split"]
    source = open_source(dataset, task, split)
    output = options["run_dir"] or f"outputs/eval/{task}/{dataset['name']}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    evaluate_model(
        model,
        source,
        task=task,
        dataset=dataset["name"],
        split=split,
        folder=RunFolder(Path(output)),
        tta=options["tta"],
        **options["loader"],
    )


def evaluate_model(
    model: VisionModel,
    source: Source,
    *,
    task: Task,
    dataset: str,
    split: str,
    folder: RunFolder,
    batch_size: int,
    workers: int,
    tta: str = "none",
) -> Scores:
    """Scores one task of a model on every picture of a source.

    Writes ``metrics.json``, ``plots/`` and ``predictions/`` into ``folder`` and prints the table of classes.

    Args:
        model: In evaluation mode.
        source: A source opened for ``task``, with the model's classes.
        task: Which of the model's heads to score.
        dataset: Name of the data set, for ``metrics.json``.
        split: Name of the split, for ``metrics.json``.
        folder: Where the results go.
        batch_size: Pictures at a time.
        workers: Processes that read.
        tta: Test-time augmentation, as :func:`mbv2kit.tta.augmented` knows it.

    Raises:
        UserError: The source's classes are not the model's, or there is no such augmentation.
    """
    source = align_classes(source, model.class_names[task])
    evaluator = create_evaluator(task, model.class_names[task])
    loader = evaluation_loader(source, model.input, batch_size, workers)
    seer = augmented(model.to(memory_format=torch.channels_last), tta)
    wanted = set(np.linspace(0, len(source) - 1, num=min(PICTURES, len(source)), dtype=int).tolist())
    folder.predictions.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    pictures: list[Image] = []
    index = 0
    for batch in track(loader, description=f"{dataset} {split}", transient=True):
        for predictions, sample in zip(seer.predict_batch(batch.images, batch.placements), batch.samples, strict=True):
            evaluator.update(predictions[task], sample)
            if index in wanted:
                pictures.append(draw.beside_truth(sample, predictions[task], model.class_names[task]))
                _save(pictures[-1], folder.predictions / f"{index:05d}_{Path(sample.image_id).stem}.png")
            index += 1
    seconds = time.perf_counter() - started
    _save(draw.contact_sheet(pictures, columns=2), folder.predictions / "overview.png")
    scores = evaluator.compute()
    evaluator.save_plots(folder.plots)
    print_scores(scores)
    write_metrics(
        folder.metrics,
        task=task,
        dataset=dataset,
        split=split,
        images=evaluator.images,
        seconds=seconds,
        scores=scores,
        tta=tta,
        model=model_in_brief(model.spec.to_dict(), task),
    )
    _log.info(
        "%d pictures in %.1f s%s; figures, plots and pictures are in %s",
        evaluator.images,
        seconds,
        "" if tta == "none" else f" with tta={tta}",
        folder.path,
    )
    return scores


def _save(picture: Image, path: Path) -> None:
    PillowImage.fromarray(picture).save(path)


def _trained_on(run: RunFolder) -> dict[str, Any] | None:
    """Returns the ``dataset`` config of a run; None for a model folder that lies elsewhere."""
    if not run.config.is_file():
        return None
    return OmegaConf.to_container(OmegaConf.load(run.config).dataset)  # type: ignore[return-value]


def _only_task(model: VisionModel, task: Task | None) -> Task:
    tasks = list(model.class_names)
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task not in tasks:
        wanted = f"not {task}" if task else "so name one with task="
        raise UserError(f"The model was trained for {', '.join(tasks)}, {wanted}.")
    return task
