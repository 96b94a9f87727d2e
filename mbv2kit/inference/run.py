"""The job of ``tools/infer.py``: every picture gets its line in ``predictions.jsonl``, its drawing and its mask."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image as PillowImage
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mbv2kit.draw import BEST, annotate, palette
from mbv2kit.errors import UserError
from mbv2kit.inference.pictures import expand, output_names
from mbv2kit.inference.predictor import PictureModel, Predictor, Seen, Unreadable, load_model, load_split_model
from mbv2kit.runs import OUTPUTS, chosen_checkpoint
from mbv2kit.structures import Classification, Detections, Prediction, Segmentation, Task

if TYPE_CHECKING:
    from mbv2kit.splitting import SplitModel

# A millionth of a score and a hundredth of a pixel: finer than any model knows, short enough to read.
_SCORE_DIGITS = 6
_PIXEL_DIGITS = 2


def infer(config: DictConfig, paths: Sequence[str]) -> int:
    """Sees pictures and writes the results into one folder, each as soon as it is there.

    Args:
        config: As composed from ``conf/infer.yaml``.
        paths: Picture files, folders and globs.

    Returns:
        The exit code: 0, or 1 if a picture could not be read.

    Raises:
        UserError: There is no picture or no model, a key is out of range, or the output cannot be written.
    """
    started = perf_counter()
    if not paths:
        raise UserError("No picture is named; give files, folders or patterns: python tools/infer.py photos/ cat.jpg")
    for key in ("min_score", "draw_min_score"):
        if config[key] is None or not 0 <= config[key] <= 1:
            raise UserError(f"{key} must be in 0..1, got {config[key]}.")
    pictures = expand(paths)
    checkpoint = chosen_checkpoint(config.checkpoint, config.weights)
    model: PictureModel
    split: SplitModel | None = None
    if config.memory_budget is None:
        model, name = load_model(checkpoint, config.task, output_stride=config.output_stride, tta=config.tta)
    elif config.tta == "none":
        model, name = split, _ = load_split_model(
            checkpoint, config.task, output_stride=config.output_stride, memory_budget=config.memory_budget
        )
    else:
        raise UserError(f"memory_budget runs one view of a picture, tta={config.tta} needs several; leave out one.")
    print(f"Model: {name}{'' if checkpoint else ' (of the newest finished run)'}")
    if split is not None:
        print("\n".join(split.plan.describe()))
    predictor = Predictor(model, config.batch_size)
    tasks = _tasks(model, config.task, name)

    output = Path(config.output or OUTPUTS / "infer" / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    unreadable = 0
    try:
        output.mkdir(parents=True, exist_ok=True)
        with (output / "predictions.jsonl").open("w", encoding="utf-8") as lines, _progress() as progress:
            bar = progress.add_task("pictures", total=len(pictures))
            for name, result in zip(output_names(pictures), predictor.predict(pictures), strict=True):
                if isinstance(result, Unreadable):
                    unreadable += 1
                    records = [{"image": str(result.path), "error": result.error}]
                else:
                    records = _write_results(output, name, result, tasks, model.class_names, config)
                lines.writelines(json.dumps(record) + "\n" for record in records)
                lines.flush()
                progress.advance(bar)
    except OSError as error:
        raise UserError(
            f"output={output} cannot be written ({error.strerror or error}); name another folder."
        ) from None

    if split is not None and split.measured is not None:
        print(f"Memory of activations: planned {split.plan.peak:,} bytes, measured {split.measured:,}")
    count = f"{len(pictures)} picture{'' if len(pictures) == 1 else 's'}"
    failed = f", {unreadable} of them unreadable (see the errors in predictions.jsonl)" if unreadable else ""
    print(f"{count}{failed}, {perf_counter() - started:.1f} s: {output}")
    return 1 if unreadable else 0


def _tasks(model: PictureModel, task: Task | None, name: str) -> list[Task]:
    if task is None:
        return list(model.class_names)
    if task not in model.class_names:
        raise UserError(f"The model {name} does {' and '.join(model.class_names)}, not {task}; leave out task=.")
    return [task]


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def _write_results(
    output: Path,
    name: str,
    seen: Seen,
    tasks: Sequence[Task],
    class_names: Mapping[Task, Sequence[str]],
    config: DictConfig,
) -> list[dict[str, Any]]:
    """Writes the drawings and masks of one picture and returns its lines, one for each task."""
    height, width = seen.image.shape[:2]
    records = []
    for task in tasks:
        prediction, names = seen.predictions[task], class_names[task]
        record: dict[str, Any] = {"image": str(seen.path), "width": width, "height": height, "task": task}
        if isinstance(prediction, Segmentation):
            mask = Path("masks", f"{name}.png")
            _write_mask(output / mask, prediction.mask, names)
            record["mask"] = mask.as_posix()
        record |= describe(prediction, names, config.min_score)
        if config.save_images:
            drawing = PillowImage.fromarray(annotate(seen.image, prediction, names, config.draw_min_score))
            stem = name if len(tasks) == 1 else f"{name}_{task}"
            (output / "images").mkdir(exist_ok=True)
            drawing.save(output / "images" / f"{stem}.jpg", quality=92)
        records.append(record)
    return records


def describe(prediction: Prediction, class_names: Sequence[str], min_score: float) -> dict[str, Any]:
    """Says a prediction in plain values: the five best ``classes``, ``boxes``, or each class's share in ``fractions``.

    Args:
        prediction: In pixels of the picture.
        class_names: By class id.
        min_score: Boxes below it are left out.
    """
    if isinstance(prediction, Classification):
        best = zip(prediction.class_ids[:BEST].tolist(), prediction.scores[:BEST].tolist(), strict=True)
        return {"classes": [_label(class_id, score, class_names) for class_id, score in best]}
    if isinstance(prediction, Detections):
        found = zip(prediction.class_ids.tolist(), prediction.scores.tolist(), prediction.boxes.tolist(), strict=True)
        return {
            "boxes": [
                _label(class_id, score, class_names) | {"box": [round(value, _PIXEL_DIGITS) for value in box]}
                for class_id, score, box in found
                if score >= min_score
            ]
        }
    counts = np.bincount(prediction.mask.ravel(), minlength=len(class_names))
    pixels: Counter[str] = Counter()
    for class_id in np.flatnonzero(counts).tolist():
        # Several classes may share a name.
        pixels[class_names[class_id]] += counts[class_id].item()
    return {"fractions": {name: round(count / prediction.mask.size, _SCORE_DIGITS) for name, count in pixels.items()}}


def _label(class_id: int, score: float, class_names: Sequence[str]) -> dict[str, Any]:
    return {"class_id": class_id, "label": class_names[class_id], "score": round(score, _SCORE_DIGITS)}


def _write_mask(path: Path, mask: NDArray[np.uint8], class_names: Sequence[str]) -> None:
    """Writes class indices as a palette PNG, as VOC does: a viewer shows colours, a program reads indices."""
    path.parent.mkdir(exist_ok=True)
    picture = PillowImage.fromarray(mask)
    picture.putpalette(palette(class_names).tobytes())
    picture.save(path)
