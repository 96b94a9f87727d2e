"""The figures of one evaluation: how they are kept, written to ``metrics.json`` and shown on screen."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbv2kit.cli.console import open_console

LONG_LIST = 40
ENDS = 10


@dataclass(frozen=True, slots=True)
class Scores:
    """The result of one evaluation.

    Attributes:
        metrics: Overall figures as fractions in 0..1; NaN where the data set has nothing to measure one by.
        per_class: For each class its own figures, the most telling one first; the same keys for every class.
            Counts, such as the number of images, stand there as integers.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


def write_metrics(
    path: Path, *, task: str, dataset: str, split: str, images: int, seconds: float, scores: Scores, **extra: Any
) -> None:
    """Writes ``metrics.json``; the file appears whole or not at all, since a run that has one counts as finished.

    Args:
        path: The file to write; its folder is made where it is missing.
        task: Name of the task.
        dataset: Name of the data set.
        split: The part of it that was evaluated.
        images: Number of images that were evaluated.
        seconds: Time that the evaluation took.
        scores: The figures. NaN, which JSON does not know, is written as null.
        extra: Further entries, such as which weights were evaluated; of JSON's own types.
    """
    content = {
        "task": task,
        "dataset": dataset,
        "split": split,
        "images": images,
        "seconds": round(seconds, 3),
        **extra,
        "metrics": scores.metrics,
        "per_class": scores.per_class,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(json.dumps(_nan_to_null(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def model_in_brief(description: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Returns what tells the figures' model from others, short enough to stand beside them.

    Args:
        description: The content of a ``model.json``.
        task: Which of the model's tasks the figures are of.

    Returns:
        ``backbone``, ``head`` and ``input`` as in the description, and the number of ``classes``.

    Raises:
        LookupError: The description lacks one of them.
    """
    return {
        "backbone": description["backbone"],
        "head": description["heads"][task],
        "classes": len(description["class_names"][task]),
        "input": description["input"],
    }


def _nan_to_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_scores(scores: Scores, console: Console | None = None) -> None:
    """Prints the overall figures and, below them, a row per class."""
    overall = Table(*scores.metrics)
    overall.add_row(*map(_format, scores.metrics.values()))
    for column in overall.columns:
        column.justify = "right"
    console = console or open_console()
    console.print(overall)
    console.print(per_class_table(scores))


def per_class_table(scores: Scores) -> Table:
    """Builds a table with a row per class, in the order of the classes.

    Of more than 40 classes it shows the best ten and the worst ten by their first figure, and says how many it
    leaves out; classes without that figure are always among those.
    """
    rows = list(scores.per_class.items())
    table = Table("class")
    for figure in rows[0][1] if rows else ():
        table.add_column(figure, justify="right")
    if len(rows) <= LONG_LIST:
        _add_rows(table, rows)
        return table
    measured = [row for row in rows if not math.isnan(_first_figure(row))]
    ranked = sorted(measured, key=_first_figure, reverse=True)
    best, worst = ranked[:ENDS], ranked[ENDS:][-ENDS:]
    _add_rows(table, best)
    table.add_section()
    _add_rows(table, worst)
    left_out = len(rows) - len(best) - len(worst)
    note = f"best {len(best)} and worst {len(worst)}; {left_out} more classes are in metrics.json"
    table.caption, table.min_width = note, len(note)
    return table


def _add_rows(table: Table, rows: list[tuple[str, dict[str, float]]]) -> None:
    for name, figures in rows:
        table.add_row(escape(name), *map(_format, figures.values()))


def _first_figure(row: tuple[str, dict[str, float]]) -> float:
    return next(iter(row[1].values()))


def _format(figure: float) -> str:
    if isinstance(figure, int):
        return str(figure)
    return "-" if math.isnan(figure) else f"{figure:.3f}"
